//! Asking the policies beside the running one. What they say is counted and told, and nothing else.

use super::{Context, Pipeline, query};
use crate::connection::Family;
use crate::event::EventKind;
use crate::headers::Tuple;
use crate::identity::Bearer;
use crate::policy::Decision;
use crate::topology::Mac;
use crate::verdict::PortId;

impl Pipeline {
    /// Puts a question to the policies beside that the running one has answered.
    #[inline]
    pub(super) fn ask_beside<A: Family>(
        &self,
        context: &Context<'_>,
        ingress: PortId,
        mac: Option<Mac>,
        tuple: &Tuple<A>,
        decision: Decision,
    ) {
        if !context.snapshot.beside.is_empty() {
            self.ask_each(context, ingress, mac, tuple, decision);
        }
    }

    #[cold]
    fn ask_each<A: Family>(
        &self,
        context: &Context<'_>,
        ingress: PortId,
        mac: Option<Mac>,
        tuple: &Tuple<A>,
        decision: Decision,
    ) {
        let policy = &context.snapshot.policy.policy;
        for beside in context.snapshot.beside.iter() {
            let question = query(ingress, tuple);
            let difference = beside.ask(self.index, context.now, policy, decision, &question, mac);
            if let Some(difference) = difference {
                self.record(
                    context,
                    ingress,
                    tuple,
                    EventKind::Beside(difference),
                    (decision.rule, Bearer::NONE),
                );
            }
        }
    }
}
