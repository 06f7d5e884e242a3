//! A program that a test runs: its output line by line, signals, and no way to outlive the test.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use thiserror::Error;

use crate::LONG;

/// Lines kept until somebody asks for them. A program that writes more loses its oldest ones.
const MAX_LINES: usize = 200_000;
/// Longer lines come in pieces, bytes.
const MAX_LINE: u64 = 1 << 20;
/// Last lines shown in an error.
const SHOWN_LINES: usize = 30;

/// What can go wrong with a program.
#[derive(Debug, Error)]
pub enum Error {
    /// It cannot be run.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// What was waited for did not come.
    #[error("{program} did not {what} within {timeout:?}; its last lines:\n{tail}")]
    Timeout {
        /// The program.
        program: String,
        /// What it should have done.
        what: &'static str,
        /// How long it was waited for.
        timeout: Duration,
        /// Its last lines.
        tail: String,
    },
    /// It ended, or closed its output, before what was waited for came.
    #[error("{program} ended before the line that was waited for; its last lines:\n{tail}")]
    Ended {
        /// The program.
        program: String,
        /// Its last lines.
        tail: String,
    },
    /// Talking to it failed.
    #[error("cannot {what} {program}: {source}")]
    Talk {
        /// What was tried.
        what: &'static str,
        /// The program.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// A signal that can be sent to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: asks it to end.
    Terminate,
    /// SIGINT: what Ctrl-C sends.
    Interrupt,
    /// SIGHUP.
    Hangup,
    /// SIGKILL.
    Kill,
    /// SIGSTOP: freezes it.
    Stop,
    /// SIGCONT: thaws it.
    Continue,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
            Signal::Hangup => libc::SIGHUP,
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        }
    }
}

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    program: String,
    child: Child,
    stdin: Option<ChildStdin>,
    output: Arc<Output>,
    last: VecDeque<String>,
    /// Removed when the program is gone.
    folder: Option<TempDir>,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct OutputState {
    lines: VecDeque<String>,
    closed_streams: u8,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_from(&self, stream: impl Read) {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!((&mut stream).take(MAX_LINE).read_until(b'\n', &mut line), Ok(length) if length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            line.clear();
            let mut state = self.lock();
            if state.lines.len() == MAX_LINES {
                state.lines.pop_front();
            }
            state.lines.push_back(text);
            self.changed.notify_all();
        }
        self.lock().closed_streams += 1;
        self.changed.notify_all();
    }
}

impl Process {
    /// Runs `command`, with its input and output connected to this.
    pub fn spawn(mut command: Command) -> Result<Self, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn_when_not_busy(&mut command)
            .map_err(|source| Error::Start { program: program.clone(), source })?;
        let output = Arc::new(Output::default());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reader = output.clone();
        std::thread::spawn(move || reader.read_from(stdout.expect("it is piped")));
        let reader = output.clone();
        std::thread::spawn(move || reader.read_from(stderr.expect("it is piped")));
        let stdin = child.stdin.take();
        Ok(Process { program, child, stdin, output, last: VecDeque::new(), folder: None })
    }

    /// Takes over a folder that the program uses: it is removed when the program is gone.
    pub fn keep(mut self, folder: TempDir) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output, standard or error, for which `wanted` is true. Lines before it are gone then.
    pub fn wait_for_line(
        &mut self,
        mut wanted: impl FnMut(&str) -> bool,
        timeout: Duration,
    ) -> Result<String, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(line) = self.next_line(deadline)? else {
                let (program, tail) = (self.program.clone(), self.tail());
                return Err(Error::Timeout {
                    program,
                    what: "write the line that was waited for",
                    timeout,
                    tail,
                });
            };
            if self.last.len() == SHOWN_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line.clone());
            if wanted(&line) {
                return Ok(line);
            }
        }
    }

    /// The next line, `None` when there is none until `deadline`.
    fn next_line(&self, deadline: Instant) -> Result<Option<String>, Error> {
        let mut state = self.output.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                return Ok(Some(line));
            }
            if state.closed_streams == 2 {
                return Err(Error::Ended { program: self.program.clone(), tail: self.tail() });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.output.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lines that it has written and that nobody has waited for yet, in order.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.output.lock().lines.drain(..).collect()
    }

    /// Its last lines, whether they were waited for or not. Of one that has ended, those that it wrote at its end are among them.
    pub fn last_lines(&mut self) -> String {
        if !self.is_running() {
            // They may not have been read yet: that goes on until its output is closed.
            let _ = self.wait_for_line(|_| false, LONG);
        }
        let unread = self.take_lines();
        self.last.extend(unread);
        self.last.drain(..self.last.len().saturating_sub(SHOWN_LINES));
        self.tail()
    }

    fn tail(&self) -> String {
        self.last.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// Writes a line to its standard input.
    pub fn send_line(&mut self, line: &str) -> Result<(), Error> {
        let result = match &mut self.stdin {
            Some(stdin) => stdin.write_all(format!("{line}\n").as_bytes()),
            None => Err(io::Error::other("its standard input is closed")),
        };
        result.map_err(|source| self.talk_error("write to", source))
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal. With [`Signal::Stop`] it is frozen when this returns.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        self.send_signal(signal)?;
        if signal == Signal::Stop && !crate::wait_until(LONG, || self.is_frozen()) {
            let (program, tail) = (self.program.clone(), self.tail());
            return Err(Error::Timeout { program, what: "stop", timeout: LONG, tail });
        }
        Ok(())
    }

    #[allow(unsafe_code, reason = "the standard library can only kill")]
    fn send_signal(&mut self, signal: Signal) -> Result<(), Error> {
        if !self.is_running() {
            return Err(self.talk_error("send a signal to", io::Error::other("it has ended")));
        }
        let pid = libc::pid_t::try_from(self.id()).expect("process ids are below 2^22");
        // SAFETY: no memory is involved. The process is a child that has not been waited for, so the id is still its own.
        match unsafe { libc::kill(pid, signal.number()) } {
            0 => Ok(()),
            _ => Err(self.talk_error("send a signal to", io::Error::last_os_error())),
        }
    }

    /// Whether every thread of it is stopped: they get the signal one after the other.
    fn is_frozen(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else { return false };
        threads.flatten().all(|thread| {
            // The state comes after the name, which is in parentheses and can be anything.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, Error> {
        let mut status = Ok(None);
        crate::wait_until(timeout, || {
            status = self.child.try_wait();
            !matches!(status, Ok(None))
        });
        match status {
            Ok(Some(status)) => Ok(status),
            Ok(None) => {
                let tail = self.last_lines();
                Err(Error::Timeout { program: self.program.clone(), what: "end", timeout, tail })
            }
            Err(source) => Err(self.talk_error("wait for", source)),
        }
    }

    /// Kills it, as `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), Error> {
        let result = self.child.kill().and_then(|()| self.child.wait());
        result.map(|_| ()).map_err(|source| self.talk_error("kill", source))
    }

    fn talk_error(&self, what: &'static str, source: io::Error) -> Error {
        Error::Talk { what, program: self.program.clone(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed.
        let _ = self.kill();
    }
}

/// Starts a program that may just have been written.
///
/// Another thread that forks while the file is open for writing passes the open file on to its child for a moment, and
/// until that has gone the kernel refuses to run it.
fn spawn_when_not_busy(command: &mut Command) -> io::Result<Child> {
    let deadline = Instant::now() + LONG;
    loop {
        match command.spawn() {
            Err(err) if err.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command).unwrap()
    }

    #[test]
    fn lines_of_both_outputs_are_read_and_input_is_written() {
        let mut process = shell("echo one; echo two >&2; read answer; echo got $answer");
        let mut lines: Vec<_> = (0..2).map(|_| process.wait_for_line(|_| true, LONG).unwrap()).collect();
        lines.sort();
        assert_eq!(lines, ["one", "two"]);
        process.send_line("back").unwrap();
        assert_eq!(process.wait_for_line(|line| line.starts_with("got"), LONG).unwrap(), "got back");
        assert!(process.wait(LONG).unwrap().success());
    }

    #[test]
    fn a_program_that_ends_early_says_what_it_said() {
        let mut process = shell("echo no such option >&2; exit 3");
        let err = process.wait_for_line(|line| line == "ready", LONG).unwrap_err();
        assert!(matches!(err, Error::Ended { .. }));
        assert!(err.to_string().contains("no such option"), "{err}");
        assert_eq!(process.wait(LONG).unwrap().code(), Some(3));
    }

    #[test]
    fn what_a_program_says_at_its_end_is_shown_however_late_it_is_read() {
        // The output stays open longer than the program, as if it were read late.
        let mut process = shell("echo first; (sleep 1; echo at the end) & exit 3");
        assert_eq!(process.wait(LONG).unwrap().code(), Some(3));
        assert_eq!(process.last_lines(), "  first\n  at the end\n");
    }

    #[test]
    fn waiting_for_a_line_gives_up_in_time() {
        let mut process = shell("echo busy; read forever");
        let err = process.wait_for_line(|line| line == "ready", Duration::from_millis(300)).unwrap_err();
        assert!(matches!(err, Error::Timeout { .. }));
        assert!(matches!(process.wait(Duration::from_millis(20)), Err(Error::Timeout { .. })));
        assert!(process.is_running());
    }

    #[test]
    fn a_dropped_process_is_gone_and_so_is_its_folder() {
        let kept = tempfile::tempdir().unwrap();
        let own = kept.path().to_path_buf();
        let process = shell("read forever").keep(kept);
        let folder = format!("/proc/{}", process.id());
        assert!(std::fs::exists(&folder).unwrap() && own.exists());
        drop(process);
        assert!(!std::fs::exists(&folder).unwrap() && !own.exists());
    }

    #[test]
    fn a_frozen_process_goes_on_when_thawed() {
        let mut process = shell("while read line; do echo $line; done");
        process.signal(Signal::Stop).unwrap();
        process.send_line("hello").unwrap();
        assert!(process.wait_for_line(|_| true, Duration::from_millis(100)).is_err());
        process.signal(Signal::Continue).unwrap();
        assert_eq!(process.wait_for_line(|_| true, LONG).unwrap(), "hello");
        process.kill().unwrap();
        assert!(process.signal(Signal::Stop).is_err());
    }
}
