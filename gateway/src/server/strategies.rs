//! Between what operators say of strategies and the lifecycle.

use prost_types::Timestamp;
use tagway_proto::v1;
use tagway_proto::v1::activate_strategy_request::Kind;
use tagway_proto::v1::strategy;
use tonic::{Code, Status};

use super::status::{invalid, status};
use crate::strategy::{Activated, Activation, From, Mode, Record, Stage, State, Undone};

/// What is asked for, checked.
pub(super) fn activation(request: v1::ActivateStrategyRequest) -> Result<Activation, Status> {
    let v1::ActivateStrategyRequest {
        name,
        kind,
        digest,
        settings,
        allow_moves,
        validate_only,
        generation,
    } = request;
    let from = match kind {
        None => None,
        Some(Kind::Component(component)) => Some(From::Component(component)),
        Some(Kind::Source(source)) => {
            let source = source.parse().map_err(|problem| invalid("source", problem))?;
            Some(From::Source(source))
        }
    };
    let settings = match &*settings {
        "" => None,
        text => {
            let parsed = serde_json::from_str(text);
            Some(parsed.map_err(|problem| invalid("settings", format!("no JSON object: {problem}")))?)
        }
    };
    Ok(Activation {
        name,
        from,
        digest: Some(digest).filter(|digest| !digest.is_empty()),
        settings,
        allow_moves,
        validate_only,
        generation: Some(generation).filter(|generation| *generation != 0),
    })
}

pub(super) fn activated(activated: Activated, mode: Mode) -> v1::ActivateStrategyResponse {
    let Activated { record, drift } = activated;
    v1::ActivateStrategyResponse {
        strategy: Some(message(record, mode)),
        moved_keys: drift.moved_keys,
        moved: drift.moved,
        known: drift.known,
        judged: drift.judged,
    }
}

pub(super) fn message(record: Record, mode: Mode) -> v1::Strategy {
    let (state, missed, reason) = match record.state {
        State::Reached(stage) => (reached(stage), None, String::new()),
        State::Active => (strategy::State::Active, None, String::new()),
        State::Draining => (strategy::State::Draining, None, String::new()),
        State::Retired => (strategy::State::Retired, None, String::new()),
        State::Rejected(stage, reason) => (strategy::State::Rejected, Some(reached(stage)), reason),
        State::RolledBack(reason) => (strategy::State::RolledBack, None, reason),
    };
    v1::Strategy {
        name: record.name.to_string(),
        version: record.version,
        digest: record.digest,
        generation: record.generation,
        state: state.into(),
        rejected_stage: missed.unwrap_or_default().into(),
        rejected_reason: reason,
        tags: record.tags.iter().map(ToString::to_string).collect(),
        activate_time: record.activated.map(Timestamp::from),
        mode: match mode {
            Mode::Follow => strategy::Mode::Follow,
            Mode::Pinned => strategy::Mode::Pinned,
            Mode::Disabled => strategy::Mode::Disabled,
        }
        .into(),
    }
}

pub(super) fn mode(mode: strategy::Mode) -> Result<Mode, Status> {
    match mode {
        strategy::Mode::Follow => Ok(Mode::Follow),
        strategy::Mode::Pinned => Ok(Mode::Pinned),
        strategy::Mode::Disabled => Ok(Mode::Disabled),
        strategy::Mode::Unspecified => Err(invalid("mode", "one of FOLLOW, PINNED and DISABLED")),
    }
}

pub(super) fn undone(undone: Undone) -> Status {
    let message = undone.to_string();
    match undone {
        Undone::Unknown(_) => status(Code::NotFound, "STRATEGY_UNKNOWN", message),
        Undone::Overtaken(_) => status(Code::Aborted, "GENERATION_CHANGED", message),
        Undone::Disabled => status(Code::FailedPrecondition, "STRATEGY_DISABLED", message),
        Undone::NothingEarlier => status(Code::FailedPrecondition, "NOTHING_EARLIER", message),
        Undone::Source(problem) => status(Code::FailedPrecondition, "SOURCE", problem),
        Undone::Busy => status(Code::Unavailable, "BUSY", message),
        Undone::Stopping => status(Code::Unavailable, "STOPPING", message),
    }
}

fn reached(stage: Stage) -> strategy::State {
    match stage {
        Stage::Fetched => strategy::State::Fetched,
        Stage::Verified => strategy::State::Verified,
        Stage::Compiled => strategy::State::Compiled,
        Stage::Configured => strategy::State::Configured,
        Stage::Probed => strategy::State::Probed,
        Stage::Shadowed => strategy::State::Shadowed,
        Stage::Active => strategy::State::Active,
    }
}
