//! When a job printed something: how long it was silent.

use anyhow::{Context, Result};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What the processes of one job print, as the moments at which it came.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Vec<Instant>>>);

/// The longest time in which nothing was printed.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    pub seconds: f64,
    pub end: Instant,
}

impl Output {
    /// Reads until it ends, in a thread of its own.
    pub fn listen(&self, mut from: impl Read + Send + 'static) {
        let moments = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut text = [0; 1 << 16];
            while let Ok(1..) = from.read(&mut text) {
                moments.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            }
        });
    }

    /// Between `begin` and now.
    pub fn longest_silence(&self, begin: Instant) -> Result<Silence> {
        let mut moments = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Several processes print, each into a pipe of its own.
        moments.sort_unstable();
        let first = moments.partition_point(|at| *at <= begin);
        let starts = std::iter::once(&begin).chain(&moments[first..]);
        let gaps = starts.zip(&moments[first..]).map(|(start, end)| (*end - *start, *end));
        let (longest, end) = gaps.max().context("the job printed nothing")?;
        Ok(Silence { seconds: longest.as_secs_f64(), end })
    }
}

#[cfg(test)]
mod tests {
    use super::Output;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    #[test]
    fn the_longest_silence_is_found() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        // The last two came through another pipe.
        let output = Output(Arc::new(Mutex::new(vec![at(5), at(10), at(90), at(95), at(12)])));
        let silence = output.longest_silence(begin).unwrap();
        assert_eq!((silence.seconds, silence.end), (0.078, at(90)));
        let silence = output.longest_silence(at(90)).unwrap();
        assert_eq!((silence.seconds, silence.end), (0.005, at(95)));
        assert!(output.longest_silence(at(95)).is_err());
    }
}
