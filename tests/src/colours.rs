//! How far apart colours are, for those who see all of them and for those who see few.

/// A colour as it is written, `#rrggbb`: red, green and blue, 0 to 1, linear (IEC 61966-2-1).
///
/// # Panics
/// When it is written otherwise.
pub fn parse(hex: &str) -> [f64; 3] {
    let digits = hex.strip_prefix('#').filter(|digits| digits.len() == 6).expect("#rrggbb");
    [0, 2, 4].map(|at| {
        let part = u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
        let part = f64::from(part) / 255.0;
        if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    })
}

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Most people.
    Normal,
    /// Without long-wave cones.
    Protan,
    /// Without middle-wave cones.
    Deutan,
    /// Without short-wave cones; very rare.
    Tritan,
}

impl Sight {
    /// All of them.
    pub const ALL: [Sight; 4] = [Sight::Normal, Sight::Protan, Sight::Deutan, Sight::Tritan];

    /// What becomes of linear red, green and blue: Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of
    /// Color Vision Deficiency", 2009, table of matrices for severity 1.0.
    fn matrix(self) -> [[f64; 3]; 3] {
        match self {
            Sight::Normal => [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            Sight::Protan => [
                [0.152_286, 1.052_583, -0.204_868],
                [0.114_503, 0.786_281, 0.099_216],
                [-0.003_882, -0.048_116, 1.051_998],
            ],
            Sight::Deutan => [
                [0.367_322, 0.860_646, -0.227_968],
                [0.280_085, 0.672_501, 0.047_413],
                [-0.011_820, 0.042_940, 0.968_881],
            ],
            Sight::Tritan => [
                [1.255_528, -0.076_749, -0.178_779],
                [-0.078_411, 0.930_809, 0.147_602],
                [0.004_733, 0.691_367, 0.303_900],
            ],
        }
    }
}

fn times(matrix: [[f64; 3]; 3], vector: [f64; 3]) -> [f64; 3] {
    matrix.map(|row| row.iter().zip(vector).map(|(m, v)| m * v).sum())
}

/// To CIE XYZ (IEC 61966-2-1, white of D65).
const XYZ: [[f64; 3]; 3] = [
    [0.412_456_4, 0.357_576_1, 0.180_437_5],
    [0.212_672_9, 0.715_152_2, 0.072_175_0],
    [0.019_333_9, 0.119_192_0, 0.950_304_1],
];

/// CIE L*a*b* of what somebody sees of a colour.
fn lab(colour: [f64; 3], sight: Sight) -> [f64; 3] {
    let seen = times(sight.matrix(), colour).map(|part| part.clamp(0.0, 1.0));
    let (xyz, white) = (times(XYZ, seen), times(XYZ, [1.0; 3]));
    let [x, y, z] = [0, 1, 2].map(|at| {
        let part = xyz[at] / white[at];
        if part > 216.0 / 24_389.0 { part.cbrt() } else { (24_389.0 / 27.0 * part + 16.0) / 116.0 }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// How far apart two colours are for somebody: the difference of CIE 1976, of which 2.3 is just noticed when they lie side by side.
pub fn difference(one: [f64; 3], other: [f64; 3], sight: Sight) -> f64 {
    let (one, other) = (lab(one, sight), lab(other, sight));
    one.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// Contrast of two colours, as WCAG 2.2 defines it: 3 is asked for what a chart is made of (1.4.11).
pub fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let [one, other] = [one, other].map(|colour| times(XYZ, colour)[1] + 0.05);
    one.max(other) / one.min(other)
}
