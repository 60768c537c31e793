//! The ordered attempts of one request. A plan ends with the floor whenever the floor is admitted;
//! what stands before it is limited by `failover.maxAttempts`.

use mesh_core::{Degradation, Facts, Refusal, Snapshot};

use crate::constraint::{AdmitInput, Admitted, admit};
use crate::policy::EffectivePolicy;

/// Why an attempt stands where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// By its score, or because the caller named it. A competing floor may be ranked.
    Ranked,
    /// Its breaker is open after failures, and nothing else is left to ask.
    LastResort,
    /// The floor, behind everything else.
    Floor,
}

/// One attempt of a plan.
#[derive(Debug)]
pub struct Attempt {
    pub(crate) admitted: Admitted,
    pub(crate) role: Role,
    pub(crate) floor: bool,
    pub(crate) local_only: bool,
    pub(crate) overflow: bool,
    pub(crate) degradations: Vec<Degradation>,
}

impl Attempt {
    /// What was admitted when the plan was made. To be sent, it is admitted again: see [`readmit`].
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Why it stands here.
    pub fn role(&self) -> Role {
        self.role
    }

    /// True if this is the floor, in whatever role: exempt from deadline and time to first token.
    pub fn floor(&self) -> bool {
        self.floor
    }

    /// True if the prompt is estimated larger than the floor's window: old turns must be left out.
    pub fn overflow(&self) -> bool {
        self.overflow
    }

    /// True if its breaker is open after failures and nothing else is left: pass this on to
    /// [`Health::start`](crate::health::Health::start).
    pub fn last_resort(&self) -> bool {
        self.role == Role::LastResort
    }

    /// Degradations of an answer by this attempt that are known now. Others (`context_trimmed`,
    /// `floor_repetition`) show while serving.
    pub fn degradations(&self) -> &[Degradation] {
        &self.degradations
    }
}

/// Attempts in order. Empty if nothing may or can serve.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) attempts: Vec<Attempt>,
}

impl Plan {
    /// The attempts.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }
}

/// What an attempt is admitted against just before it is sent.
#[derive(Debug, Clone, Copy)]
pub struct ReadmitInput<'a> {
    /// The newest snapshot.
    pub snapshot: &'a Snapshot,
    /// Policy joined from it for the same caller.
    pub policy: &'a EffectivePolicy,
    /// Facts of the request.
    pub facts: &'a Facts,
    /// What is decided can be written durably now.
    pub durable: bool,
    /// Now.
    pub now: jiff::Timestamp,
}

/// Admits an attempt again: a claim may have expired, a policy changed, a backend gone.
///
/// The level can only have risen meanwhile: a higher base level of the new policy counts. The
/// context window of a floor stays unchecked only while the new policy still names it as floor and
/// lets it trim, and only so long it goes without a record.
///
/// # Errors
/// The first constraint that now refuses; `availability` if the backend or its model is gone.
pub fn readmit(attempt: &Attempt, input: &ReadmitInput<'_>) -> Result<Admitted, Refusal> {
    let before = &attempt.admitted;
    let id = &before.backend().id;
    let Some(backend) = input.snapshot.backend(id) else {
        return Err(Refusal {
            constraint: mesh_core::Constraint::Availability,
            message: format!("{id} is no longer declared"),
        });
    };
    let still_floor = input.policy.is_floor(id);
    let trims = input
        .policy
        .floor()
        .is_some_and(|floor| floor.overflow == mesh_core::policy::Overflow::TrimHistory);
    let again = AdmitInput {
        policy: input.policy,
        facts: input.facts,
        local_only: attempt.local_only,
        embedding: before.model().capabilities.embedding.as_ref(),
        overflow: attempt.overflow && still_floor && trims,
        recorded: input.durable || (attempt.floor && still_floor),
        now: input.now,
    };
    admit(&again, backend, &before.model().name)
}
