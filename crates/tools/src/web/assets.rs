//! The page, inside the program: it works where there is no network.
//!
//! A view is a file in `page/views/` and a line here.

/// A file of the page.
pub(crate) struct Asset {
    pub(crate) path: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) bytes: &'static [u8],
}

pub(crate) const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! page {
    (files { $($path:literal: $kind:ident,)* } views { $($view:literal: $title:literal,)* }) => {
        /// All files but [`views_module`].
        const ASSETS: &[Asset] = &[
            $(Asset { path: concat!("/", $path), kind: $kind, bytes: include_bytes!(concat!("page/", $path)) },)*
            $(Asset {
                path: concat!("/views/", $view, ".js"),
                kind: SCRIPT,
                bytes: include_bytes!(concat!("page/views/", $view, ".js")),
            },)*
        ];

        /// The module that tells the page which views there are, in the order of its menu.
        const VIEWS_MODULE: &str = concat!(
            "export const views = [\n",
            $("  { name: \"", $view, "\", title: \"", $title, "\", load: () => import(\"./views/", $view, ".js\") },\n",)*
            "];\n",
        );
    };
}

page! {
    files {
        "index.html": HTML,
        "login.html": HTML,
        "style.css": STYLE,
        "icon.svg": IMAGE,
        "app.js": SCRIPT,
        "lib/chart.js": SCRIPT,
        "lib/dom.js": SCRIPT,
        "lib/format.js": SCRIPT,
        "lib/stream.js": SCRIPT,
        "lib/table.js": SCRIPT,
        "lib/store.js": SCRIPT,
    }
    views {
        "overview": "Overview",
        "peers": "Peers",
        "circle": "Circle",
        "transactions": "Transactions",
        "addresses": "Addresses",
        "blocks": "Blocks",
        "pings": "Pings",
        "addrman": "Address manager",
        "log": "Log",
        "pipeline": "Pipeline",
        "peer": "",
    }
}

const VIEWS: Asset = Asset { path: "/views.js", kind: SCRIPT, bytes: VIEWS_MODULE.as_bytes() };

/// The file at that path: one of those that are listed, nothing else.
pub(crate) fn asset(path: &str) -> Option<&'static Asset> {
    let path = if path == "/" { "/index.html" } else { path };
    std::iter::once(&VIEWS).chain(ASSETS).find(|asset| asset.path == path)
}

/// The login page, as it says that the token was wrong.
pub(crate) fn wrong_token() -> String {
    include_str!("page/login.html")
        .replace("<!-- what was wrong -->", "<p class=\"bad\" role=\"alert\">That is not the token.</p>")
}
