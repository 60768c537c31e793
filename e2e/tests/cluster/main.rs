//! The product on a real Kubernetes with real nodes, as a platform team and an application meet it:
//! `helm install`, `kubectl`, the official OpenAI SDK in a pod. One story in order, since a cluster is
//! dear; each chapter is counted as a test. A filter is parts of names, separated by commas; the first chapter is
//! always told.
//!
//! Needs `MESH_IMAGES` (what `cargo xtask images` wrote), `MESH_SDK_PYTHON` (a Python with the OpenAI SDK) and
//! `MESH_SDK_NODE` (a folder with that for Node), which `cargo xtask test` sets; without them it says that it is skipped, and fails with `CI=true`.
//! With `KUBECONFIG` the core of the story is told on that cluster: `chapter/given.rs`.
#![expect(
    clippy::print_stdout,
    reason = "a test program of its own, which speaks as cargo's do"
)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a chapter that cannot go on ends by a panic"
)]

mod application;
mod chapter;
mod page;
mod prometheus;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use crate::world::World;

type Chapter = (&'static str, fn(&World));

/// Told only where a program is named.
const LLAMA: &str = "llama_cpps_own_server_serves_behind_the_guard";

const CHAPTERS: &[Chapter] = &[
    (
        "helm_install_brings_up_a_floor_that_is_ready",
        chapter::install::floor,
    ),
    (
        "every_pod_of_the_release_runs_restricted",
        chapter::install::restricted,
    ),
    (
        "helm_test_gets_an_answer_and_a_refusal",
        chapter::quickstart::helm_test,
    ),
    (
        "the_quickstart_does_what_it_says",
        chapter::quickstart::told,
    ),
    ("the_samples_become_ready", chapter::install::samples),
    (
        "operator_and_gateway_are_small_when_nothing_happens",
        chapter::memory::idle,
    ),
    (
        "caches_with_bad_sources_and_volumes_are_accepted",
        chapter::caches::prepare,
    ),
    (
        "an_application_pod_gets_the_models_answer_through_the_gateway",
        chapter::ask::answer,
    ),
    (
        "nobody_is_served_without_a_token_of_ours",
        chapter::ask::strangers,
    ),
    ("an_api_key_is_let_in_and_taken_back", chapter::ask::api_key),
    (
        "a_card_number_never_reaches_the_cloud_pod",
        chapter::ask::card,
    ),
    (
        "mesh_status_shows_a_cluster_with_nothing_but_a_kubeconfig",
        chapter::command_line::status,
    ),
    (
        "mesh_why_explains_a_request_of_an_application_of_the_cluster",
        chapter::command_line::why,
    ),
    (
        "the_key_goes_to_the_cloud_and_a_tenants_backend_cannot_have_it",
        chapter::ask::secrets,
    ),
    (
        "a_cloud_that_is_gone_is_told_in_its_status_and_that_it_is_back",
        chapter::health::of_a_cloud,
    ),
    (
        "a_tenant_reaches_no_part_of_the_mesh_by_address_or_name",
        chapter::tenant::addresses,
    ),
    (
        "a_forged_endpoint_slice_is_not_believed",
        chapter::tenant::forged,
    ),
    (
        "a_key_reaches_a_source_and_nobody_else",
        chapter::caches::locked,
    ),
    (
        "a_volume_is_filled_and_a_smaller_version_is_made_and_served",
        chapter::caches::volume,
    ),
    (
        "an_adapter_answers_under_its_own_name_beside_its_model",
        chapter::caches::adapted,
    ),
    (
        "a_pod_may_go_out_until_its_files_are_there",
        chapter::caches::confined,
    ),
    (
        "a_worker_does_not_speak_plain_text_to_anybody",
        chapter::transport::plain_text,
    ),
    (
        "a_worker_serves_who_proves_an_account_and_proves_its_own",
        chapter::transport::identities,
    ),
    (
        "the_gateway_is_reached_over_tls_by_its_name",
        chapter::transport::gateway,
    ),
    (
        "egress_and_ports_are_what_the_network_policies_promise",
        chapter::egress::enforced,
    ),
    (
        "egress_of_the_gateway_can_be_narrowed",
        chapter::egress::narrowed,
    ),
    (
        "a_confined_application_with_a_sidecar_reaches_the_mesh_and_nothing_else_and_that_is_proved",
        chapter::confine::proved,
    ),
    (
        "a_network_that_confines_no_longer_is_noticed",
        chapter::confine::noticed,
    ),
    (
        "who_widens_what_is_confined_is_named",
        chapter::confine::widened,
    ),
    (
        "whom_to_trust_is_told_where_models_are_served_and_nowhere_else",
        chapter::transport::trusted_where_served,
    ),
    (
        "an_unchanged_application_of_a_labeled_namespace_is_answered_through_its_sidecar",
        chapter::sidecar::beside,
    ),
    (
        "a_sidecar_whose_gateways_are_killed_is_answered_by_the_floor",
        chapter::sidecar::without_gateways,
    ),
    ("a_job_with_a_sidecar_completes", chapter::sidecar::job),
    (
        "the_official_sdk_for_node_is_answered_through_its_sidecar",
        chapter::sidecar::node,
    ),
    (
        "a_rollout_of_the_operator_refuses_no_pod_that_asks_for_a_sidecar",
        chapter::sidecar::operator_rolled_out,
    ),
    ("scaling_under_load_fails_no_request", chapter::serve::scale),
    (
        "without_an_operator_traffic_goes_on_a_killed_worker_is_not_noticed_and_no_pod_lacks_its_sidecar",
        chapter::alone::without_operator,
    ),
    (
        "the_gateway_answers_while_the_api_server_is_gone",
        chapter::serve::api_outage,
    ),
    (
        "an_upgrade_of_the_release_that_replaces_gateways_cuts_no_stream",
        chapter::serve::gateway_rollout,
    ),
    (
        "a_rolling_upgrade_of_a_worker_cuts_no_stream",
        chapter::serve::worker_rollout,
    ),
    (
        "files_in_a_local_volume_are_found_again_by_the_next_pod",
        chapter::local::found_again,
    ),
    (LLAMA, chapter::engine::llama),
    (
        "every_panel_has_data_from_a_real_prometheus",
        chapter::monitoring::every_panel,
    ),
    (
        "alerts_about_what_is_declared_and_asked_fire_while_it_is_so",
        chapter::alerts::fire,
    ),
    (
        "what_a_policy_wants_recorded_is_on_disk_before_it_is_sent_and_without_a_ledger_the_floor_answers_alone",
        chapter::recorded::kept,
    ),
    (
        "the_last_floor_can_be_neither_deleted_nor_scaled_away",
        chapter::floor::protected,
    ),
    (
        "the_last_floor_is_protected_without_the_operator",
        chapter::floor::protected_alone,
    ),
    (
        "a_namespace_with_backends_can_be_deleted",
        chapter::floor::namespace,
    ),
    (
        "a_second_release_without_a_way_out_keeps_to_its_namespace_and_nothing_there_counts_as_owned",
        chapter::namespaced::beside,
    ),
    (
        "a_bad_first_source_is_told_and_survived_in_four_ways",
        chapter::caches::bad_sources,
    ),
    (
        "a_volume_that_is_full_is_told_in_bytes_and_what_it_was_for_is_served_once_it_has_grown",
        chapter::full::until_it_grows,
    ),
    (
        "what_belongs_to_a_cache_goes_with_it",
        chapter::caches::gone,
    ),
    (
        "no_alert_fires_once_nothing_is_left_of_what_they_were_about",
        chapter::alerts::silent_in_the_end,
    ),
    (
        "rights_granted_are_rights_used",
        chapter::rights::used_are_granted,
    ),
    (
        "helm_uninstall_keeps_the_kinds_and_removes_the_rest",
        chapter::install::uninstall,
    ),
    (
        "helm_uninstall_removes_the_authority_and_the_trust_in_it",
        chapter::transport::uninstalled,
    ),
    (
        "helm_uninstall_takes_kinds_away_that_are_not_kept",
        chapter::away::with_kinds,
    ),
    (
        "a_mesh_of_kustomize_comes_and_goes_without_helm",
        chapter::away::without_helm,
    ),
];

/// Chapters that need nodes of ours; how many.
fn told_nowhere_else() -> usize {
    let here = |name: &str| chapter::given::CHAPTERS.iter().any(|(one, _)| *one == name);
    let count = CHAPTERS.iter().filter(|(name, _)| !here(name)).count();
    println!(
        "{count} chapters are left out in a cluster that was not started here: {}",
        chapter::given::LEFT_OUT
    );
    count
}

/// How many chapters there were.
#[derive(Default)]
struct Counted {
    passed: usize,
    failed: usize,
    filtered: usize,
}

/// Tells the chapters that are wanted, in order.
fn tell(world: &World, chapters: &[Chapter], filter: Option<&str>) -> Counted {
    let mut counted = Counted::default();
    for (number, (name, chapter)) in chapters.iter().enumerate() {
        // The first chapters make what the others need.
        let wanted = filter
            .is_none_or(|parts| parts.split(',').any(|part| name.contains(part)) || number == 0);
        let possible = *name != LLAMA || chapter::engine::program().is_some();
        if !wanted || !possible {
            counted.filtered += 1;
            continue;
        }
        let since = Instant::now();
        let good = catch_unwind(AssertUnwindSafe(|| chapter(world))).is_ok();
        let verdict = if good { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {verdict} ({:.1} s)",
            since.elapsed().as_secs_f32()
        );
        if good {
            counted.passed += 1;
        } else {
            counted.failed += 1;
            println!("{}", world.diagnosis());
            if number == 0 {
                break;
            }
        }
    }
    counted
}

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    let world = match World::start() {
        Ok(Some(world)) => world,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            println!("the cluster could not be started: {error:#}");
            println!(
                "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out"
            );
            return ExitCode::FAILURE;
        }
    };
    let given = world.cluster.started_here().is_err();
    let chapters = if given {
        chapter::given::CHAPTERS
    } else {
        CHAPTERS
    };
    println!(
        "\nrunning {} chapters (cluster up after {:.1} s)",
        chapters.len(),
        begun.elapsed().as_secs_f32()
    );
    let Counted {
        passed,
        failed,
        filtered,
    } = tell(&world, chapters, filter.as_deref());
    drop(world);
    let ignored = if given { told_nowhere_else() } else { 0 };
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s",
        begun.elapsed().as_secs_f32()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
