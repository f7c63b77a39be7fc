//! The space of all questions, cut into pieces that policies treat alike: what `plan`, the lints and `matrix` stand on.
//!
//! A question has a source with its port, a destination, a protocol with its port, and circumstances (who, when).
//! Instead of trying packets, the pieces are computed from the policies themselves, exactly and without visiting
//! segments or rules one by one where lists are shared:
//!
//! * [`zones`], [`ends`]: addresses by their longest match in all policies at once, and those of equal treatment together;
//! * [`atlas`]: pairs of such ends, and the rules that speak about each;
//! * [`forms`]: protocols and ports by the boundaries of services; a piece's clauses in the order they are asked;
//! * [`solve`]: whether there is anybody, at any time, for whom clauses come to a certain result;
//! * [`compare`]: two policies; [`survey`]: what the rules of one never do.
//!
//! It knows ids only, and neither clocks nor files. It stands here and not beside the policy compiler because no packet
//! ever needs it: what the packet path can be asked stays small.

pub mod atlas;
pub mod compare;
pub mod demands;
pub mod ends;
pub mod forms;
pub mod solve;
pub mod survey;
#[cfg(test)]
pub(crate) mod tests;
pub mod zones;

pub use atlas::{Atlas, Policy, TooLarge};
pub use compare::{Comparison, Difference, Kind, Witness, compare};
pub use demands::{Demand, DemandId, Demands, Moment, Moments};
pub use forms::{Clause, FormId, Forms, Outcome};
pub use solve::Occasion;
