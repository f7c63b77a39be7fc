//! The portal's questions, answered: by a few threads, with bounded queues, and so that nobody takes the turns of others.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::super::desk;
use super::super::gateway::{Gateway, lock};
use super::child::{Child, Line};
use super::listen::Place;
use super::visitor::{self, Not};
use crate::portal::orders::{Order, Word};
use crate::portal::wire::{Answer, Answered, Asked, Question, Why};

/// Threads of each lane: two for what is known here at once, two for passwords, which take a processor a while to hash,
/// and four for what waits for somebody else's server, so that a slow one keeps nobody from their own page.
const THREADS: [usize; 3] = [2, 2, 4];
/// Questions that wait in each lane.
const QUEUE: usize = 64;
/// Questions of one address that wait or are being answered.
const PER_ADDRESS: usize = 4;
/// Questions that are read in a stretch of [`STRETCH`]; more wait in the pair, and then in the portal.
const PER_STRETCH: u32 = 500;
const STRETCH: Duration = Duration::from_millis(100);
/// What is said when there is no room.
const BUSY: Answer = Answer::Refused { why: Why::Busy, retry_after_s: Some(2) };

/// What was asked and answered since the gateway started.
#[derive(Debug, Default)]
pub struct Counts {
    /// Questions that came.
    pub asked: AtomicU64,
    /// Of these, those for which there was no room.
    pub busy: AtomicU64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// The process is gone.
    Gone,
    /// It is not to be believed any more, for this reason.
    Lied(String),
}

/// The lane of a question, an index in [`THREADS`].
fn lane(question: &Question) -> usize {
    match question {
        Question::Password { .. } => 1,
        Question::OidcBegin { .. }
        | Question::OidcFinish { .. }
        | Question::DeviceBegin { .. }
        | Question::DevicePoll { .. }
        | Question::SecurityEvent { .. } => 2,
        Question::Standing
        | Question::Totp { .. }
        | Question::PasskeyBegin { .. }
        | Question::PasskeyFinish { .. }
        | Question::PasskeyRegisterBegin
        | Question::PasskeyRegisterFinish { .. }
        | Question::PasskeyRemove { .. }
        | Question::SignOut
        | Question::Challenge
        | Question::DeviceEnroll { .. }
        | Question::DeviceCertificate { .. }
        | Question::Statement { .. } => 0,
    }
}

/// A question with whoever asks it.
struct Job {
    peer: SocketAddr,
    asked: Asked,
}

/// One run's questions.
pub struct Broker<'b> {
    gateway: &'b Arc<Gateway>,
    child: &'b Child,
    /// Where the portal listens.
    pub places: &'b RwLock<BTreeSet<Place>>,
    lanes: Vec<Sender<Job>>,
    waiting: &'b Arc<Waiting>,
    counts: &'b Counts,
    /// An answer did not get through to it, or the run is over: nothing more needs to be answered.
    deaf: Arc<AtomicBool>,
    stretch: (Instant, u32),
}

/// How many questions of each address wait.
#[derive(Default)]
pub struct Waiting(Mutex<HashMap<IpAddr, usize>>);

impl Waiting {
    /// Counts one more; not when there are enough.
    fn enter(&self, address: IpAddr) -> bool {
        let mut waiting = lock(&self.0);
        let count = waiting.entry(address).or_default();
        if *count >= PER_ADDRESS {
            return false;
        }
        *count += 1;
        true
    }

    fn leave(&self, address: IpAddr) {
        let mut waiting = lock(&self.0);
        if let Some(count) = waiting.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&address);
            }
        }
    }
}

impl<'b> Broker<'b> {
    /// Starts the threads that answer. They end after the broker, each with the question that it is at: nobody waits for
    /// one that waits for somebody else's server.
    ///
    /// # Errors
    ///
    /// There are no threads for it.
    pub fn start(
        gateway: &'b Arc<Gateway>,
        child: &'b Child,
        places: &'b RwLock<BTreeSet<Place>>,
        waiting: &'b Arc<Waiting>,
        counts: &'b Counts,
    ) -> io::Result<Broker<'b>> {
        let deaf = Arc::new(AtomicBool::new(false));
        let mut lanes = Vec::new();
        for (lane, threads) in THREADS.into_iter().enumerate() {
            let (jobs, queue) = bounded::<Job>(QUEUE);
            for number in 0..threads {
                let thread = std::thread::Builder::new().name(format!("portal-{lane}-{number}"));
                let answerer = Answerer {
                    gateway: gateway.clone(),
                    line: child.line.clone(),
                    queue: queue.clone(),
                    waiting: waiting.clone(),
                    deaf: deaf.clone(),
                };
                thread.spawn(move || answerer.work())?;
            }
            lanes.push(jobs);
        }
        Ok(Broker { gateway, child, places, lanes, waiting, counts, deaf, stretch: (Instant::now(), 0) })
    }

    /// Hears what the portal says next, if it says something soon.
    ///
    /// # Errors
    ///
    /// The run is over.
    pub fn hear(&mut self, patience: Duration) -> Result<(), Over> {
        let lied = |why: &str| Err(Over::Lied(why.to_owned()));
        if self.deaf.load(Ordering::Relaxed) {
            return lied("it does not listen to answers");
        }
        match self.child.hear(patience) {
            Ok(None) => Err(Over::Gone),
            Ok(Some((Word::Asked(asked), Some(connection)))) => {
                self.pace();
                self.take(asked, &connection)
            }
            Ok(Some((Word::Asked(_), None))) => lied("a question without a connection"),
            Ok(Some((Word::Ready, _))) => lied("it began twice"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => lied("a message that is none"),
            Err(_) => Err(Over::Gone),
        }
    }

    /// However much the portal asks, reading it leaves time for others.
    fn pace(&mut self) {
        let (begun, count) = &mut self.stretch;
        let elapsed = begun.elapsed();
        if elapsed >= STRETCH {
            self.stretch = (Instant::now(), 1);
            return;
        }
        *count += 1;
        if *count > PER_STRETCH {
            std::thread::sleep(STRETCH - elapsed);
        }
    }

    fn take(&self, asked: Asked, connection: &std::os::fd::OwnedFd) -> Result<(), Over> {
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        let topology = self.gateway.engine.snapshot().topology.clone();
        let spec = topology.spec();
        let own = |address: IpAddr| visitor::is_own(spec, address);
        let places = self.places.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let peer = match visitor::peer(connection, &places, own) {
            Ok(peer) => peer,
            // Nobody waits for an answer.
            Err(Not::Here) => {
                return self.say(asked.id, Answer::Refused { why: Why::Failed, retry_after_s: None });
            }
            Err(Not::Honest(why)) => return Err(Over::Lied(format!("it passed on {why}"))),
        };
        drop(places);
        let id = asked.id;
        let no_room = if !self.waiting.enter(peer.ip()) {
            true
        } else {
            match self.lanes[lane(&asked.question)].try_send(Job { peer, asked }) {
                Ok(()) => false,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    self.waiting.leave(peer.ip());
                    true
                }
            }
        };
        if no_room {
            self.counts.busy.fetch_add(1, Ordering::Relaxed);
            return self.say(id, BUSY);
        }
        Ok(())
    }

    fn say(&self, id: u64, answer: Answer) -> Result<(), Over> {
        let said = self.child.line.tell(&Order::Answer(Answered { id, answer }), None);
        said.map_err(|error| Over::Lied(format!("it does not listen: {error}")))
    }
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        self.deaf.store(true, Ordering::Relaxed);
    }
}

/// One thread that answers.
struct Answerer {
    gateway: Arc<Gateway>,
    line: Line,
    queue: Receiver<Job>,
    waiting: Arc<Waiting>,
    deaf: Arc<AtomicBool>,
}

impl Answerer {
    /// Until there are no more questions.
    fn work(self) {
        while let Ok(Job { peer, asked }) = self.queue.recv() {
            if self.deaf.load(Ordering::Relaxed) {
                self.waiting.leave(peer.ip());
                continue;
            }
            let id = asked.id;
            let answered = catch_unwind(AssertUnwindSafe(|| desk::answer(&self.gateway, peer.ip(), asked)));
            self.waiting.leave(peer.ip());
            let failed = || Answer::Refused { why: Why::Failed, retry_after_s: None };
            let answer = answered.unwrap_or_else(|_| {
                self.gateway.alarm("answering a question of the portal failed: a fault, please report it");
                failed()
            });
            match self.line.tell(&Order::Answer(Answered { id, answer }), None) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.gateway.alarm(
                        "an answer for the portal is too long for a message: a fault, please report it",
                    );
                    let _ = self.line.tell(&Order::Answer(Answered { id, answer: failed() }), None);
                }
                // It is gone, which its reader notices; or it does not listen, and then nobody must wait for it.
                Err(_) => self.deaf.store(true, Ordering::Relaxed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_questions_waiting_and_others_have_theirs() {
        let waiting = Waiting::default();
        let (one, other) = ("10.1.0.7".parse().unwrap(), "10.1.0.8".parse().unwrap());
        (0..PER_ADDRESS).for_each(|_| assert!(waiting.enter(one)));
        assert!(!waiting.enter(one) && waiting.enter(other));
        waiting.leave(one);
        assert!(waiting.enter(one) && !waiting.enter(one));
        (0..PER_ADDRESS).for_each(|_| waiting.leave(one));
        waiting.leave(other);
        assert!(lock(&waiting.0).is_empty());
    }
}
