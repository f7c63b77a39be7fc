//! What was fetched from somebody, and when it is fetched again.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// From this age on it is fetched again before it is used.
pub const FRESH: Duration = Duration::from_secs(3600);
/// Up to this age it is used all the same when fetching fails.
pub const USABLE: Duration = Duration::from_secs(86_400);
/// However urgent, it is not fetched again before so long.
pub const FLOOR: Duration = Duration::from_secs(60);
/// While there is nothing at all, it is tried as often as this.
pub const RETRY: Duration = Duration::from_secs(5);

/// Why there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nothing(pub String);

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct Held<T> {
    value: Option<(Arc<T>, Instant)>,
    tried: Option<Instant>,
    why: String,
}

/// Something that is fetched.
pub struct Fetched<T> {
    held: Mutex<Held<T>>,
    /// Whoever fetches has it, so that two do not fetch the same.
    fetching: Mutex<()>,
}

impl<T> Default for Fetched<T> {
    fn default() -> Self {
        let held = Held { value: None, tried: None, why: String::new() };
        Fetched { held: Mutex::new(held), fetching: Mutex::new(()) }
    }
}

enum Look<T> {
    Use(Arc<T>),
    Fetch,
    Wait(Nothing),
}

impl<T> Fetched<T> {
    /// It, as of now. `is_lacking` says that what was got here before lacks something (a key of a token), so it is fetched
    /// again unless that was done within [`FLOOR`].
    ///
    /// # Errors
    ///
    /// There is none, and none can be had.
    pub fn get<E: fmt::Display>(
        &self,
        is_lacking: bool,
        now: Instant,
        fetch: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, Nothing> {
        match self.look(is_lacking, now) {
            Look::Use(value) => return Ok(value),
            Look::Wait(why) => return Err(why),
            Look::Fetch => {}
        }
        let _only = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have fetched it meanwhile.
        match self.look(is_lacking, now) {
            Look::Use(value) => return Ok(value),
            Look::Wait(why) => return Err(why),
            Look::Fetch => {}
        }
        let fetched = fetch();
        let mut held = self.held();
        // Only now: until then others wait for it rather than go without.
        held.tried = Some(now);
        match fetched {
            Ok(value) => {
                let value = Arc::new(value);
                held.value = Some((value.clone(), now));
                Ok(value)
            }
            Err(error) => {
                held.why = error.to_string();
                usable(&held, now).ok_or_else(|| Nothing(held.why.clone()))
            }
        }
    }

    fn look(&self, is_lacking: bool, now: Instant) -> Look<T> {
        let held = self.held();
        let since = |at: Instant| now.saturating_duration_since(at);
        let is_fresh = held.value.as_ref().is_some_and(|(_, at)| since(*at) < FRESH);
        let usable = usable(&held, now);
        let pause = if usable.is_some() { FLOOR } else { RETRY };
        let may_fetch = held.tried.is_none_or(|tried| since(tried) >= pause);
        match usable {
            Some(value) if is_fresh && !is_lacking || !may_fetch => Look::Use(value),
            None if !may_fetch => Look::Wait(Nothing(held.why.clone())),
            _ => Look::Fetch,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn usable<T>(held: &Held<T>, now: Instant) -> Option<Arc<T>> {
    let (value, at) = held.value.as_ref()?;
    (now.saturating_duration_since(*at) < USABLE).then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fetches what it is told and counts how often.
    struct Source {
        fetched: Fetched<u32>,
        count: u32,
        start: Instant,
    }

    impl Source {
        fn new() -> Source {
            Source { fetched: Fetched::default(), count: 0, start: Instant::now() }
        }

        fn get(&mut self, is_lacking: bool, at_s: u64, answer: Result<u32, &str>) -> Result<u32, String> {
            let now = self.start + Duration::from_secs(at_s);
            let count = &mut self.count;
            let fetch = || {
                *count += 1;
                answer.map_err(str::to_owned)
            };
            self.fetched.get(is_lacking, now, fetch).map(|value| *value).map_err(|why| why.0)
        }
    }

    #[test]
    fn c4_what_lacks_a_key_is_fetched_again_at_most_once_a_minute() {
        let mut source = Source::new();
        assert_eq!(source.get(false, 0, Ok(1)), Ok(1));
        for second in 0..60 {
            assert_eq!(source.get(true, second, Ok(2)), Ok(1), "{second}");
        }
        assert_eq!(source.count, 1);
        assert_eq!(source.get(true, 60, Ok(2)), Ok(2), "rotated");
        for second in 61..120 {
            assert_eq!(source.get(true, second, Ok(3)), Ok(2), "{second}");
        }
        assert_eq!(source.count, 2, "however many ask");
    }

    #[test]
    fn c4_keys_are_fetched_again_after_an_hour_and_used_for_a_day_if_that_fails() {
        let mut source = Source::new();
        assert_eq!(source.get(false, 0, Ok(1)), Ok(1));
        assert_eq!(source.get(false, 3599, Ok(2)), Ok(1));
        assert_eq!(source.get(false, 3600, Err("down")), Ok(1));
        assert_eq!(source.get(false, 3659, Ok(2)), Ok(1), "not before a minute has passed");
        assert_eq!(source.get(false, 3660, Err("down")), Ok(1));
        assert_eq!(source.get(false, 86_399, Err("down")), Ok(1));
        assert_eq!(source.get(false, 86_404, Err("down")), Err("down".to_owned()), "too old to be believed");
        assert_eq!(source.get(false, 86_409, Ok(3)), Ok(3));
    }

    #[test]
    fn nothing_is_tried_again_after_a_few_seconds() {
        let mut source = Source::new();
        assert_eq!(source.get(false, 0, Err("down")), Err("down".to_owned()));
        assert_eq!(source.get(false, 4, Ok(1)), Err("down".to_owned()));
        assert_eq!(source.get(true, 5, Ok(1)), Ok(1));
        assert_eq!(source.count, 2);
    }

    #[test]
    fn two_at_once_fetch_once() {
        let fetched = Fetched::<u32>::default();
        let count = std::sync::atomic::AtomicU32::new(0);
        let now = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let fetch = || {
                        std::thread::sleep(Duration::from_millis(20));
                        Ok::<_, String>(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
                    };
                    assert_eq!(fetched.get(false, now, fetch).map(|value| *value), Ok(0));
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }
}
