//! The processor time of the daemon by what it is spent on.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use crate::time::processor_time;

/// Answering requests, over TCP and over the Unix socket.
pub static ON_REQUESTS: Spent = Spent(AtomicU64::new(0));
/// Reading the kernel's tables of half-open handshakes and of listeners.
pub static ON_ROWS: Spent = Spent(AtomicU64::new(0));

/// The processor time spent on one part, by all threads.
#[derive(Debug)]
pub struct Spent(AtomicU64);

impl Spent {
    /// Returns the time so far.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Runs `work` on this thread, and adds the time that it takes.
    pub fn measure<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = processor_time();
        let result = work();
        let nanoseconds = processor_time().saturating_sub(before).as_nanos();
        self.0.fetch_add(u64::try_from(nanoseconds).unwrap_or(u64::MAX), Ordering::Relaxed);
        result
    }

    /// Returns a future that adds the time that `future` takes.
    pub fn by<F: Future>(&'static self, future: F) -> Measured<F> {
        Measured { future: Box::pin(future), spent: self }
    }
}

/// A future whose time is measured.
pub struct Measured<F> {
    future: Pin<Box<F>>,
    spent: &'static Spent,
}

impl<F: Future> Future for Measured<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.spent.measure(|| self.future.as_mut().poll(context))
    }
}

/// The processor time of each part. The daemon's start, its list files and its notifications are in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Judging, acting and publishing: all of the ticks that is not in another part.
    pub tick: Duration,
    /// Reading the kernel's tables of half-open handshakes and of listeners.
    pub rows: Duration,
    /// Reading the datapath's maps, and summing them up.
    pub maps: Duration,
    /// Answering requests.
    pub http: Duration,
}

/// Measures the parts of the ticks.
#[derive(Debug, Default)]
pub(super) struct PartsMeter {
    parts: Parts,
    /// This thread's time at the last call, and the time spent on rows by then.
    last: (Duration, Duration),
}

impl PartsMeter {
    /// Notes that a tick begins.
    pub fn begin(&mut self) {
        self.last = (processor_time(), ON_ROWS.total());
    }

    /// Notes that everything has been read.
    pub fn end_reading(&mut self) {
        let spent = self.lap();
        self.parts.maps += spent;
    }

    /// Notes that the tick ends.
    pub fn end(&mut self) {
        let spent = self.lap();
        self.parts.tick += spent;
    }

    /// Returns the time of this thread since the last call, without what was spent on rows.
    fn lap(&mut self) -> Duration {
        let now = (processor_time(), ON_ROWS.total());
        let (before, rows_before) = std::mem::replace(&mut self.last, now);
        now.0.saturating_sub(before).saturating_sub(now.1 - rows_before)
    }

    /// Returns the time of each part.
    pub fn parts(&self) -> Parts {
        Parts { rows: ON_ROWS.total(), http: ON_REQUESTS.total(), ..self.parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() {
        let before = processor_time();
        while processor_time() - before < Duration::from_millis(5) {}
    }

    #[test]
    fn what_is_spent_on_rows_is_in_no_other_part() {
        let mut meter = PartsMeter::default();
        meter.begin();
        ON_ROWS.measure(work);
        meter.end_reading();
        work();
        meter.end();
        let parts = meter.parts();
        assert!(parts.maps < Duration::from_millis(2), "{parts:?}");
        assert!(parts.rows >= Duration::from_millis(5) && parts.tick >= Duration::from_millis(5), "{parts:?}");
    }
}
