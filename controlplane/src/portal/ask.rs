//! The portal's end of the pair: questions go out with the connection of whoever asks, answers find their question.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::oneshot;

use super::limits::{ANSWER_PATIENCE, QUESTIONS_MAX};
use super::orders::{Order, Word};
use super::wire::{self, Answer, Asked, Question, Secret, Why};

/// The gateway, as the portal sees it.
pub struct Gateway {
    /// It keeps messages apart as datagrams do, and tells besides when the other end is gone (SEQPACKET, unix(7)).
    pair: UnixDatagram,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
    next: Cell<u64>,
}

/// Takes a question off the list when whoever asked does not wait any more.
struct Waiting<'g>(&'g Gateway, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.borrow_mut().remove(&self.1);
    }
}

impl Gateway {
    /// At the other end of this socket, which does not block.
    pub fn new(pair: OwnedFd) -> io::Result<Rc<Gateway>> {
        let pair = UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(pair))?;
        Ok(Rc::new(Gateway { pair, waiting: RefCell::default(), next: Cell::new(1) }))
    }

    /// Says a word.
    ///
    /// # Errors
    ///
    /// The gateway is gone, or it is too long.
    pub async fn say(&self, word: &Word, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.pair.async_io(Interest::WRITABLE, || wire::send(&self.pair, word, with)).await
    }

    /// The next order with what came with it; `None` when the gateway is gone.
    ///
    /// # Errors
    ///
    /// What came is no order.
    pub async fn hear(&self) -> io::Result<Option<(Order, Option<OwnedFd>)>> {
        self.pair.async_io(Interest::READABLE, || wire::receive::<Order>(&self.pair)).await
    }

    /// Gives an answer to whoever waits for it.
    pub fn answered(&self, id: u64, answer: Answer) {
        if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
            // They may have left just now.
            let _ = waiting.send(answer);
        }
    }

    /// Asks on behalf of whoever is at the other end of this connection.
    pub async fn ask(
        &self,
        cookie: Option<Secret>,
        question: Question,
        connection: BorrowedFd<'_>,
    ) -> Answer {
        let busy = Answer::Refused { why: Why::Busy, retry_after_s: Some(2) };
        if self.waiting.borrow().len() >= QUESTIONS_MAX {
            return busy;
        }
        let id = self.next.replace(self.next.get() + 1);
        let (sender, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        let _waiting = Waiting(self, id);
        let word = Word::Asked(Asked { id, cookie, question });
        let asked = async {
            match self.say(&word, Some(connection)).await {
                Ok(()) => answer.await.ok(),
                Err(_) => None,
            }
        };
        match tokio::time::timeout(ANSWER_PATIENCE, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Answer::Refused { why: Why::Failed, retry_after_s: None },
            Err(_) => busy,
        }
    }
}
