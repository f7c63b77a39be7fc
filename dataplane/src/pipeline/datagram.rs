//! Datagrams in pieces: a fragment goes into the store, and a datagram that is whole is judged as a packet is.

use std::sync::Arc;

use super::{Context, Pipeline, Refusal, Tell, tuple};
use crate::answer::IcmpError;
use crate::connection::{Family, Map};
use crate::fragments::{Fragments, HandedOver, Inserted, JOINED, Release, Share};
use crate::headers::{self, Addresses, Fragment, Headers, Transport, Tuple};
use crate::sanity;
use crate::topology::Hop;
use crate::verdict::{PortId, Reason, Verdict};
use crate::wire::ethernet;

impl Pipeline {
    /// The same pipeline with room for fragments; without, it drops every fragment.
    #[must_use]
    pub fn with_fragments(mut self, share: Arc<Share>) -> Pipeline {
        let is_on = share.worker_capacity() > 0;
        self.joined = vec![0; if is_on { JOINED } else { 0 }].into_boxed_slice();
        self.waiting = Vec::with_capacity(share.worker_capacity() as usize);
        self.fragments = Fragments::new(share, self.index);
        self
    }

    /// Fragments that wait, for the rest of their datagram or for its next hop.
    pub fn fragments_held(&self) -> usize {
        self.fragments.held()
    }

    /// Datagrams that they belong to, and condemned ones.
    pub fn datagrams(&self) -> usize {
        self.fragments.datagrams()
    }

    /// Datagrams that wait for their next hop.
    pub fn datagrams_unresolved(&self) -> usize {
        self.fragments.unresolved()
    }

    /// The next thing to be done with stored fragments; a frame that it names is to be given back by
    /// [`Pipeline::free`].
    pub fn next_release(&mut self) -> Option<Release> {
        self.fragments.next_release()
    }

    /// A stored frame.
    pub fn stored(&self, slot: u32) -> &[u8] {
        self.fragments.frame(slot)
    }

    /// Gives a released frame's memory back.
    pub fn free(&mut self, slot: u32) {
        self.fragments.free(slot);
    }

    /// Calls `count` with every reason for which stored fragments were dropped since the last call, and how many.
    pub fn take_dropped_fragments(&mut self, count: impl FnMut(Reason, u32)) {
        self.fragments.take_dropped(count);
    }

    /// Drops all stored fragments.
    pub fn drop_fragments(&mut self, reason: Reason) {
        self.fragments.clear(reason);
    }

    /// Hands a frame over to another worker; false when that one has no room for it.
    #[must_use]
    pub fn hand_over(&self, to: u16, ingress: PortId, frame: &[u8]) -> bool {
        self.fragments.share().hand_over(to, ingress, frame)
    }

    /// The oldest frame that another worker has handed over.
    pub fn take_handed_over(&self) -> Option<HandedOver> {
        self.fragments.share().take(self.index)
    }

    /// Judges a frame that was handed over: a fragment.
    pub fn process_handed_over(&mut self, context: &Context<'_>, handed: &HandedOver) -> Verdict {
        match headers::parse(handed.bytes()) {
            Err(Reason::Fragment) => self.fragment(context, handed.ingress(), handed.bytes()),
            Err(reason) => Verdict::Drop(reason),
            // Nobody hands over anything else.
            Ok(_) => Verdict::Drop(Reason::Fragment),
        }
    }

    /// Judges again the datagrams that wait for their next hop: policy or topology have changed.
    pub fn judge_waiting_datagrams(&mut self, context: &Context<'_>) {
        if self.fragments.unresolved() == 0 {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        self.fragments.list_unresolved(&mut waiting);
        for &index in &waiting {
            self.judge_datagram(context, index);
        }
        self.waiting = waiting;
    }

    /// Ends the waits that have lasted too long: those for fragments, and after `hold_ns` those for a next hop.
    pub fn expire_fragments(&mut self, context: &Context<'_>, hold_ns: u64) {
        self.fragments.expire(context.now, context.table.fragment_timeout_ns());
        while let Some(index) = self.fragments.overdue(context.now, hold_ns) {
            let whole = self.assemble(index).and_then(|(_, headers)| headers.ok());
            let tell = whole.map(|whole| (whole, Tell::Icmp(IcmpError::HostUnreachable)));
            self.refuse_datagram(context, index, Reason::HeldTooLong, tell);
        }
    }

    /// A fragment: refused for what it is, handed over, or stored; and its datagram judged, if this completes it.
    #[cold]
    pub(super) fn fragment(&mut self, context: &Context<'_>, ingress: PortId, frame: &[u8]) -> Verdict {
        let fragment = match self.check_fragment(context, ingress, frame) {
            Ok(fragment) => fragment,
            Err(reason) => return Verdict::Drop(reason),
        };
        if let Some(owner) = self.fragments.belongs_to_other(ingress, &fragment) {
            return Verdict::HandOver(owner);
        }
        let before = self.fragments.releases();
        match self.fragments.insert(context.now, ingress, &fragment, frame) {
            Inserted::Refused(reason) => return Verdict::Drop(reason),
            Inserted::Waits => {}
            Inserted::Completes(index) => self.judge_datagram(context, index),
        }
        // A datagram has few pieces.
        Verdict::Stored((self.fragments.releases() - before) as u16)
    }

    /// What can be said of a fragment alone. The rest waits for the whole.
    fn check_fragment(
        &self,
        context: &Context<'_>,
        ingress: PortId,
        frame: &[u8],
    ) -> Result<Fragment, Reason> {
        let fragment = headers::fragment(frame)?;
        sanity::check_fragment(frame, &fragment, ingress, &context.snapshot.topology)?;
        let policy = &context.snapshot.policy.policy;
        // Whoever lies about their address takes no memory.
        let source = fragment.addresses.source();
        if policy.source_segment(ingress, source).is_none() {
            return Err(Reason::SpoofedSource);
        }
        // Nor does another device get a piece into the datagram of one that has signed in.
        if ethernet::source(frame).is_some_and(|mac| policy.identities().is_taken(source, mac)) {
            return Err(Reason::AddressTaken);
        }
        Ok(fragment)
    }

    /// Joins a datagram in `self.joined`: where its end is there, and its headers.
    fn assemble(&mut self, index: u32) -> Option<(usize, Result<Headers, Reason>)> {
        let assembled = self.fragments.assemble(index, &mut self.joined)?;
        Some((assembled.end, assembled.headers))
    }

    /// Judges a complete datagram as the packet that it would be, and forwards or drops all of it.
    fn judge_datagram(&mut self, context: &Context<'_>, index: u32) {
        let Some((end, headers)) = self.assemble(index) else {
            return self.fragments.drop_all(index, Reason::FragmentMalformed);
        };
        let headers = match headers {
            Ok(headers) => headers,
            Err(reason) => return self.fragments.drop_all(index, reason),
        };
        let joined = std::mem::take(&mut self.joined);
        let outcome = self.judge_joined(context, index, &joined[..end], &headers);
        self.joined = joined;
        match outcome {
            Ok(hop) => self.fragments.forward(index, context.now, &headers, hop),
            Err(Refusal::Silent(reason)) => self.fragments.drop_all(index, reason),
            Err(Refusal::Told(reason, tell)) => {
                self.refuse_datagram(context, index, reason, Some((headers, tell)));
            }
            Err(Refusal::Hold(port, next_hop)) => self.fragments.hold(index, context.now, port, next_hop),
        }
    }

    fn judge_joined<'c>(
        &mut self,
        context: &Context<'c>,
        index: u32,
        joined: &[u8],
        headers: &Headers,
    ) -> Result<&'c Hop, Refusal> {
        let ingress = self.fragments.ingress(index);
        let (identities, source) = (context.snapshot.policy.policy.identities(), headers.addresses.source());
        // Whoever it is that has signed in, since the first piece came or before it: all pieces are theirs.
        if self.fragments.senders(index).any(|mac| identities.is_taken(source, mac)) {
            return Err(Reason::AddressTaken.into());
        }
        if headers.transport == Transport::IcmpError {
            return self.relate(context, ingress, joined, headers);
        }
        match headers.addresses {
            Addresses::V4(source, destination) => {
                let tuple = tuple(headers, source, destination);
                self.track_joined(context, index, joined, headers, &context.table.v4, &tuple)
            }
            Addresses::V6(source, destination) => {
                let tuple = tuple(headers, source, destination);
                self.track_joined(context, index, joined, headers, &context.table.v6, &tuple)
            }
        }
    }

    /// Tracks the datagram, once; then counts those of its fragments that tracking has not: it saw one packet, of the
    /// length of the longest.
    fn track_joined<'c, A: Family>(
        &mut self,
        context: &Context<'c>,
        index: u32,
        joined: &[u8],
        headers: &Headers,
        map: &Map<A>,
        tuple: &Tuple<A>,
    ) -> Result<&'c Hop, Refusal> {
        let ingress = self.fragments.ingress(index);
        let hash = map.hash(tuple);
        let hop = self.track(context, ingress, joined, headers, map, tuple)?;
        if let Some(hit) = map.find(hash, tuple, context.now) {
            let rule = map.stamp(hit).rule;
            let mut counted = false;
            for bytes in self.fragments.pieces(index).map(Fragment::ip_len) {
                if bytes == headers.ip_len() && !std::mem::replace(&mut counted, true) {
                    continue;
                }
                map.count(hit, bytes);
                self.rule_hit(context, rule, bytes);
            }
        }
        Ok(hop)
    }

    /// Drops a datagram, and tells its sender, about the first fragment (RFC 1122, section 3.2.2).
    fn refuse_datagram(
        &mut self,
        context: &Context<'_>,
        index: u32,
        reason: Reason,
        tell: Option<(Headers, Tell)>,
    ) {
        let Pipeline { fragments, limiter, .. } = self;
        let ingress = fragments.ingress(index);
        fragments.refuse(index, reason, |frame, first| {
            let (whole, tell) = tell?;
            let headers = first.headers(&whole);
            super::answer_in_place(limiter, context, ingress, frame, &headers, tell).then_some(ingress)
        });
    }
}
