//! Files with results, written by a thread of its own, because a disk can take its time.
//!
//! The CSV file has each row as soon as it is known. A Parquet file is of no use before its end is written, so each has one row group:
//! it is written under another name, and gets its own when it is whole. A crash loses the rows of one file at most.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::config::Config;
use super::row::{COLUMNS, Kind, Row, Value, csv_head};

/// Rows of a Parquet file.
const GROUP_ROWS: usize = 10_000;
/// A Parquet file is written after this time, whatever it has by then.
const GROUP_TIME: Duration = Duration::from_secs(600);
/// Batches of rows that wait for the thread.
const QUEUE: usize = 64;
/// Files that are begun in the same second get numbers up to this.
const MAX_NUMBER: u32 = 1_000;

/// Why results cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be made or written.
    #[error(
        "cannot write results to {path}: {source}; is the disk full, or the folder not ours to write in?"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A Parquet file cannot be made of the rows.
    #[error("cannot write results to {path}: {source}; please report this")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ParquetError,
    },
    /// The thread cannot be started.
    #[error("cannot start a thread to write results with: {0}; the limit of processes may be reached")]
    Thread(io::Error),
    /// The thread failed.
    #[error("writing results failed, please report this")]
    Crashed,
}

/// Takes rows.
pub(super) struct Output {
    rows: Option<Sender<Vec<Row>>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Output {
    /// Opens the files that the settings ask for. `now` is in s since the UNIX epoch.
    pub(super) fn start(config: &Config, now: u64) -> Result<Self, Error> {
        let csv = config.csv_dir.as_deref().map(|dir| Csv::create(dir, now)).transpose()?;
        let parquet = config.parquet_dir.as_deref().map(|dir| Parquet::new(dir, now)).transpose()?;
        Self::to(csv, parquet)
    }

    fn to(csv: Option<Csv>, parquet: Option<Parquet>) -> Result<Self, Error> {
        if csv.is_none() && parquet.is_none() {
            return Ok(Output { rows: None, thread: None });
        }
        let (rows, taken) = channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("connectivity-files".into())
            .spawn(move || write_all(taken, csv, parquet))
            .map_err(Error::Thread)?;
        Ok(Output { rows: Some(rows), thread: Some(thread) })
    }

    /// Rows are to be written somewhere.
    pub(super) fn is_wanted(&self) -> bool {
        self.rows.is_some()
    }

    /// Hands rows over; waits while the disk does not follow, and whoever does not wait for the end keeps them. False when the thread has
    /// failed: `finish` says why.
    pub(super) async fn write(&self, rows: &mut Vec<Row>) -> bool {
        let Some(sender) = &self.rows else { return true };
        let Ok(place) = sender.reserve().await else { return false };
        place.send(std::mem::take(rows));
        true
    }

    /// Waits until the thread has failed: `finish` says why.
    pub(super) async fn failed(&self) {
        match &self.rows {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Has what is due by now written, also when no rows come any more. Nothing is lost when the thread is busy.
    pub(super) fn tick(&self) {
        if let Some(sender) = &self.rows {
            let _ = sender.try_send(Vec::new());
        }
    }

    /// Writes what is left, and ends.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.rows = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        joined.map_err(|_| Error::Crashed)?.unwrap_or(Err(Error::Crashed))
    }
}

fn write_all(
    mut rows: Receiver<Vec<Row>>,
    mut csv: Option<Csv>,
    mut parquet: Option<Parquet>,
) -> Result<(), Error> {
    while let Some(batch) = rows.blocking_recv() {
        if let Some(csv) = &mut csv {
            csv.write(&batch)?;
        }
        if let Some(parquet) = &mut parquet {
            parquet.write(batch, Instant::now())?;
        }
    }
    parquet.map_or(Ok(()), |mut parquet| parquet.flush())
}

/// A file of that name that was not there before, with a number if need be.
fn create(dir: &Path, now: u64, end: &str) -> Result<(PathBuf, File), Error> {
    let mut number = 0;
    loop {
        let name = match number {
            0 => format!("addr-connectivity-{now}.{end}"),
            n => format!("addr-connectivity-{now}-{n}.{end}"),
        };
        let path = dir.join(name);
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NUMBER => number += 1,
            Err(source) => return Err(Error::File { path, source }),
        }
    }
}

/// A CSV file.
struct Csv {
    path: PathBuf,
    file: File,
}

impl Csv {
    fn create(dir: &Path, now: u64) -> Result<Self, Error> {
        let (path, file) = create(dir, now, "csv")?;
        let mut csv = Csv { path, file };
        csv.append(&csv_head())?;
        tracing::info!(file = %csv.path.display(), "writing results");
        Ok(csv)
    }

    fn write(&mut self, rows: &[Row]) -> Result<(), Error> {
        let mut text = String::new();
        for row in rows {
            row.write_csv(&mut text);
        }
        self.append(&text)
    }

    fn append(&mut self, text: &str) -> Result<(), Error> {
        let failed = |source| Error::File { path: self.path.clone(), source };
        self.file.write_all(text.as_bytes()).map_err(failed)
    }
}

/// Parquet files, one after the other.
struct Parquet {
    dir: PathBuf,
    schema: TypePtr,
    /// Begin of the names, s since the UNIX epoch.
    started: u64,
    files: u64,
    rows: Vec<Row>,
    /// When the first of these rows came.
    since: Option<Instant>,
}

impl Parquet {
    fn new(dir: &Path, now: u64) -> Result<Self, Error> {
        let failed = |source| Error::Parquet { path: dir.into(), source };
        let schema = parse_message_type(&schema_text()).map_err(failed)?;
        // Whether files can be made there shows now, and not after the first ten minutes.
        let (path, _) = create(dir, now, "parquet.try")?;
        std::fs::remove_file(&path).map_err(|source| Error::File { path, source })?;
        Ok(Parquet {
            dir: dir.into(),
            schema: Arc::new(schema),
            started: now,
            files: 0,
            rows: Vec::new(),
            since: None,
        })
    }

    fn write(&mut self, rows: Vec<Row>, now: Instant) -> Result<(), Error> {
        for row in rows {
            self.rows.push(row);
            if self.rows.len() >= GROUP_ROWS {
                self.flush()?;
            }
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= GROUP_TIME { self.flush() } else { Ok(()) }
    }

    /// Writes a file with the rows that are there.
    fn flush(&mut self) -> Result<(), Error> {
        self.since = None;
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        // Names sort as the files were made.
        let name = format!("addr-connectivity-{}-{:06}.parquet", self.started, self.files);
        self.files += 1;
        let path = self.dir.join(&name);
        let unfinished = self.dir.join(format!(".{name}.part"));
        let failed = |source| Error::File { path: path.clone(), source };
        let file = File::create(&unfinished).map_err(failed)?;
        let written = write_group(&file, self.schema.clone(), &rows);
        written.map_err(|source| Error::Parquet { path: path.clone(), source })?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&unfinished, &path).map_err(failed)?;
        tracing::info!(file = %path.display(), rows = rows.len(), "results written");
        Ok(())
    }
}

/// The columns, as Parquet's own language has them.
fn schema_text() -> String {
    let columns = COLUMNS.iter().map(|(name, kind)| match kind {
        Kind::Text => format!("REQUIRED BINARY {name} (UTF8);"),
        Kind::Unsigned => format!("REQUIRED INT64 {name} (INTEGER(64,false));"),
        Kind::Signed => format!("REQUIRED INT64 {name} (INTEGER(64,true));"),
        Kind::Bool => format!("REQUIRED BOOLEAN {name};"),
    });
    format!("message addr_connectivity {{ {} }}", columns.collect::<Vec<_>>().join(" "))
}

fn write_group(file: &File, schema: TypePtr, rows: &[Row]) -> Result<(), ParquetError> {
    let compression = Compression::GZIP(parquet::basic::GzipLevel::default());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    let mut index = 0;
    while let Some(mut column) = group.next_column()? {
        let values = rows.iter().map(|row| &row.0[index]);
        match column.untyped() {
            ColumnWriter::ByteArrayColumnWriter(writer) => {
                let texts: Vec<ByteArray> = values
                    .filter_map(|value| match value {
                        Value::Text(text) => Some(text.as_str().into()),
                        _ => None,
                    })
                    .collect();
                writer.write_batch(&texts, None, None)?;
            }
            ColumnWriter::Int64ColumnWriter(writer) => {
                let numbers: Vec<i64> = values
                    .filter_map(|value| match value {
                        Value::Unsigned(number) => Some(number.cast_signed()),
                        Value::Signed(number) => Some(*number),
                        _ => None,
                    })
                    .collect();
                writer.write_batch(&numbers, None, None)?;
            }
            ColumnWriter::BoolColumnWriter(writer) => {
                let bools: Vec<bool> = values
                    .filter_map(|value| match value {
                        Value::Bool(yes) => Some(*yes),
                        _ => None,
                    })
                    .collect();
                writer.write_batch(&bools, None, None)?;
            }
            _ => return Err(ParquetError::General("a column of a kind that no row has".into())),
        }
        column.close()?;
        index += 1;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// An output to a disk that has no space left for rows.
#[cfg(test)]
pub(super) fn to_full_disk() -> Output {
    let path = PathBuf::from("/dev/full");
    let file = File::options().write(true).open(&path).unwrap();
    Output::to(Some(Csv { path, file }), None).unwrap()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    use super::super::probe::{Failure, Outcome};
    use super::super::row::Origin;
    use super::super::row::tests::{answered, heard};
    use super::*;

    fn rows(count: usize) -> Vec<Row> {
        let refused = Outcome::failed(Failure::Refused);
        let row = |n: usize| match n % 2 {
            0 => Row::new(&heard("1.2.3.4"), &answered("/Ünï,\"x\"\n/"), Origin::Fresh, n as u64),
            _ => Row::new(&heard("1.2.3.5"), &refused, Origin::Fresh, n as u64),
        };
        (0..count).map(row).collect()
    }

    /// What a reader that is not ours finds in the files of a folder, in the order of their names.
    fn read(dir: &Path) -> Vec<(String, Vec<Row>)> {
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
            assert_eq!(reader.num_row_groups(), 1);
            let mut rows = Vec::new();
            for row in reader.get_row_iter(None).unwrap() {
                let row = row.unwrap();
                let names: Vec<&String> = row.get_column_iter().map(|(name, _)| name).collect();
                assert!(names.iter().zip(COLUMNS).all(|(name, (expected, _))| *name == expected));
                let values = row.get_column_iter().map(|(_, field)| match field {
                    Field::Str(text) => Value::Text(text.clone()),
                    Field::ULong(number) => Value::Unsigned(*number),
                    Field::Long(number) => Value::Signed(*number),
                    Field::Bool(yes) => Value::Bool(*yes),
                    other => panic!("{other:?}"),
                });
                rows.push(Row(values.collect::<Vec<_>>().try_into().unwrap()));
            }
            files.push((path.file_name().unwrap().to_string_lossy().into_owned(), rows));
        }
        files
    }

    #[test]
    fn parquet_files_hold_the_rows_and_are_whole_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut parquet = Parquet::new(dir.path(), 17).unwrap();
        let now = Instant::now();
        assert!(read(dir.path()).is_empty(), "nothing is there that could not be read");
        parquet.write(rows(GROUP_ROWS + 3), now).unwrap();
        let files = read(dir.path());
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].0, "addr-connectivity-17-000000.parquet");
        assert_eq!(files[0].1, rows(GROUP_ROWS));

        parquet.write(rows(1), now + GROUP_TIME - Duration::from_secs(1)).unwrap();
        assert_eq!(read(dir.path()).len(), 1);
        parquet.write(rows(0), now + GROUP_TIME).unwrap();
        let files = read(dir.path());
        assert_eq!((files.len(), files[1].1.len()), (2, 4));
        parquet.write(rows(2), now + GROUP_TIME).unwrap();
        parquet.flush().unwrap();
        parquet.flush().unwrap();
        assert_eq!(read(dir.path())[2].1, rows(2));
    }

    #[tokio::test]
    async fn rows_are_in_the_csv_file_at_once_and_in_the_other_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = ["csv", "parquet"].map(|name| dir.path().join(name));
        for dir in &dirs {
            std::fs::create_dir(dir).unwrap();
        }
        let config = Config {
            csv_dir: Some(dirs[0].clone()),
            parquet_dir: Some(dirs[1].clone()),
            ..Config::default()
        };
        let output = Output::start(&config, 17).unwrap();
        assert!(output.write(&mut rows(3)).await);
        let csv = || std::fs::read_to_string(dirs[0].join("addr-connectivity-17.csv")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while csv().lines().count() < 4 {
            assert!(Instant::now() < deadline, "{}", csv());
            tokio::task::yield_now().await;
        }
        assert_eq!(csv().lines().next().unwrap(), csv_head().trim_end());
        assert!(read(&dirs[1]).is_empty());
        output.finish().await.unwrap();
        assert_eq!(read(&dirs[1])[0].1, rows(3));

        let again = Output::start(&config, 17).unwrap();
        again.finish().await.unwrap();
        assert!(dirs[0].join("addr-connectivity-17-1.csv").exists(), "nothing is written over");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_from_the_start() {
        let dir = || Some(PathBuf::from("/proc/nonexistent"));
        let csv = Config { csv_dir: dir(), ..Config::default() };
        let parquet = Config { parquet_dir: dir(), ..Config::default() };
        for config in [csv, parquet] {
            let Err(error) = Output::start(&config, 17) else { panic!("{config:?}") };
            assert!(error.to_string().contains("/proc/nonexistent/addr-connectivity-17"), "{error}");
        }
    }
}
