//! Processes that parse one source after the other: the outside, which starts, feeds and watches them, and the loop
//! inside.
//!
//! A request is the language's number (u8), the length of the text (u32) and the text; an answer is 1 and the number
//! of marks (u32), then of each its place, strength, level and title (u32, u8, u32, u32, u32), or 0 if there are none.
//! All little-endian. An answer holds nothing but places in the text, so a parser that a hostile file has taken over can
//! only have a text cut badly.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::syntax::{self, Language};
use super::workers::Limits;
use crate::semantic::passages::{Mark, Strength};

/// First argument of such a process, before the bytes of memory that it may have.
const SUBCOMMAND: &str = "syntax";
/// Larger sources are cut by the look of their lines: they are generated.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// A process ends after so many sources, whatever it has gathered.
const SOURCES_MAX: usize = 10_000;
const MARK_BYTES: usize = 17;
const STRENGTHS: [Strength; 5] = [
    Strength::Word,
    Strength::Line,
    Strength::Statement,
    Strength::Paragraph,
    Strength::Section,
];

/// The processes that are idle. There are as many as threads that asked at once.
#[derive(Default)]
pub(super) struct Parsers {
    idle: Mutex<Vec<Parser>>,
}

impl Parsers {
    /// The marks of a source. None where no process can be started, or the source is too large. The error says why a
    /// process gave up that was started for it: one that has waited may be gone for another reason, with the thread that
    /// started it.
    pub(super) fn marks(
        &self,
        start: impl FnOnce() -> Option<Command>,
        limits: &Limits,
        language: Language,
        text: &str,
    ) -> Result<Option<Vec<Mark>>, &'static str> {
        if text.len() > SOURCE_BYTES_MAX {
            return Ok(None);
        }
        let ask = |mut parser: Parser| {
            let found = parser.ask(language, text, Instant::now() + limits.time)?;
            if parser.left > 0 {
                self.idle.lock().push(parser);
            }
            Ok(found)
        };
        let idle = self.idle.lock().pop();
        if let Some(found) = idle.and_then(|parser| ask(parser).ok()) {
            return Ok(found);
        }
        match start() {
            Some(command) => ask(Parser::start(command, limits).map_err(|_| "the parser does not start")?),
            None => Ok(None),
        }
    }

    /// Ends those that are idle.
    pub(super) fn rest(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }
}

/// A running process; dropped, it is dead and waited for.
struct Parser {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// Sources that it may still read.
    left: usize,
}

impl Drop for Parser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Parser {
    fn start(mut command: Command, limits: &Limits) -> io::Result<Parser> {
        let mut child = command
            .arg(SUBCOMMAND)
            .arg(limits.memory_bytes.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        rustix::io::ioctl_fionbio(&input, true)?;
        Ok(Parser {
            child,
            input,
            output,
            left: SOURCES_MAX,
        })
    }

    fn ask(
        &mut self,
        language: Language,
        text: &str,
        deadline: Instant,
    ) -> Result<Option<Vec<Mark>>, &'static str> {
        self.left -= 1;
        let number = Language::ALL
            .iter()
            .position(|other| *other == language)
            .unwrap_or(0);
        let mut request = vec![number as u8];
        request.extend((text.len() as u32).to_le_bytes());
        request.extend(text.as_bytes());
        self.write(&request, deadline)?;
        let mut head = [0; 5];
        self.read(&mut head, deadline)?;
        let count = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] == 0 {
            return Ok(None);
        }
        if count > text.len() + 1 {
            return Err("an answer that is none");
        }
        let mut answer = vec![0; count * MARK_BYTES];
        self.read(&mut answer, deadline)?;
        understand(&answer, text)
            .map(Some)
            .ok_or("an answer that is none")
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            wait(&self.input, PollFlags::OUT, deadline)?;
            match self.input.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if is_passing(&error) => {}
                Err(_) => return Err("the parser crashed"),
            }
        }
        Ok(())
    }

    fn read(&mut self, mut bytes: &mut [u8], deadline: Instant) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            wait(&self.output, PollFlags::IN, deadline)?;
            match self.output.read(bytes) {
                Ok(0) => return Err("the parser crashed"),
                Ok(n) => bytes = &mut bytes[n..],
                Err(error) if is_passing(&error) => {}
                Err(_) => return Err("the parser cannot be read"),
            }
        }
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

/// Waits until a pipe can be used, or is closed.
fn wait(pipe: &impl AsFd, events: PollFlags, deadline: Instant) -> Result<(), &'static str> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(pipe, events)], Some(&left)) {
            Ok(0) => return Err("the parser is out of time"),
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(_) => return Err("the parser cannot be waited for"),
        }
    }
}

/// The marks of an answer, if they are in rising order and lie in the text.
fn understand(answer: &[u8], text: &str) -> Option<Vec<Mark>> {
    let mut marks: Vec<Mark> = Vec::with_capacity(answer.len() / MARK_BYTES);
    for bytes in answer.chunks_exact(MARK_BYTES) {
        let number =
            |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let mark = Mark {
            at: number(0),
            strength: *STRENGTHS.get(usize::from(bytes[4]))?,
            level: number(5),
            title: number(9)..number(13),
        };
        let rises = marks.last().is_none_or(|last| last.at < mark.at);
        if !rises || !text.is_char_boundary(mark.at) {
            return None;
        }
        text.get(mark.title.clone())?;
        marks.push(mark);
    }
    Some(marks)
}

/// The bytes of memory that such a process may have, if these are its arguments.
pub(super) fn memory_of(args: &[OsString]) -> Option<u64> {
    match args {
        [subcommand, memory] if subcommand == SUBCOMMAND => memory.to_str()?.parse().ok(),
        _ => None,
    }
}

/// The whole life of such a process: answers until there are no more requests.
pub(super) fn serve(mut input: impl Read, mut output: File) -> ExitCode {
    let mut text = Vec::new();
    loop {
        let mut head = [0; 5];
        if input.read_exact(&mut head).is_err() {
            return ExitCode::SUCCESS;
        }
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        text.resize(length.min(SOURCE_BYTES_MAX), 0);
        if input.read_exact(&mut text).is_err() || output.write_all(&answer(head[0], &text)).is_err() {
            return ExitCode::from(3);
        }
    }
}

fn answer(language: u8, text: &[u8]) -> Vec<u8> {
    let language = Language::ALL.get(usize::from(language));
    let marks = language
        .zip(std::str::from_utf8(text).ok())
        .and_then(|(language, text)| syntax::marks(*language, text));
    let Some(marks) = marks else { return vec![0; 5] };
    let mut answer = vec![1];
    answer.extend((marks.len() as u32).to_le_bytes());
    for mark in marks {
        let strength = STRENGTHS.iter().position(|strength| *strength == mark.strength);
        answer.extend((mark.at as u32).to_le_bytes());
        answer.push(strength.unwrap_or(0) as u8);
        for number in [mark.level, mark.title.start, mark.title.end] {
            answer.extend((number as u32).to_le_bytes());
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_as_the_marks_that_went_in() {
        let text = "fn a() {\n    b();\n}\n\n/// Doc.\nfn c() {}\n";
        let answered = answer(6, text.as_bytes());
        assert_eq!(answered[0], 1);
        assert_eq!(
            understand(&answered[5..], text),
            syntax::marks(Language::Rust, text)
        );
        assert_eq!(answer(6, b"\xff"), [0; 5]);
        assert_eq!(answer(200, b"x"), [0; 5]);
    }

    #[test]
    fn places_outside_of_the_text_or_out_of_order_are_refused() {
        let text = "é fn a() {}";
        let mark = |at: u32, strength: u8, from: u32, to: u32| {
            let mut bytes = at.to_le_bytes().to_vec();
            bytes.push(strength);
            [0, from, to]
                .iter()
                .for_each(|number: &u32| bytes.extend(number.to_le_bytes()));
            bytes
        };
        assert!(understand(&mark(3, 4, 3, 9), text).is_some());
        let after = |second| [mark(3, 4, 3, 9), second].concat();
        for bad in [
            mark(1, 4, 3, 9),
            mark(3, 5, 3, 9),
            mark(3, 4, 9, 3),
            mark(3, 4, 3, 99),
            mark(99, 4, 3, 9),
            after(mark(3, 4, 3, 9)),
            after(mark(0, 4, 3, 9)),
        ] {
            assert_eq!(understand(&bad, text), None);
        }
    }
}
