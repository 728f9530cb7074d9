"""The metrics that the proxy has, with their labels: what rules and board may ask for.

`test_first_start` asks a real proxy whether that is so.
"""

HISTOGRAMS = {
    "gen_ai_server_time_to_first_token_seconds": {"route"},
    "gen_ai_server_request_duration_seconds": {"route"},
    "ccproxy_added_latency_seconds": set(),
}
METRICS: dict[str, set[str]] = {
    "ccproxy_requests_total": {"endpoint", "verdict"},
    "ccproxy_early_heads_total": {"verdict"},
    "ccproxy_request_refusals_total": {"reason"},
    "ccproxy_attempts_total": {"route", "outcome", "kind"},
    "ccproxy_failovers_total": {"from_route", "to_route"},
    "ccproxy_second_opinions_total": {"route", "outcome"},
    "ccproxy_unknown_errors_total": {"route"},
    "ccproxy_unread_usage_total": {"route", "field"},
    "ccproxy_circuit_state": {"route"},
    "ccproxy_cool_down_seconds": {"route", "account", "endpoint", "scope"},
    "ccproxy_route_available": {"route"},
    "ccproxy_route_state": {"route", "state"},
    "ccproxy_quota_used_tokens": {"route"},
    "ccproxy_quota_limit_tokens": {"route"},
    "ccproxy_quota_overshoot_tokens": {"route"},
    "ccproxy_tokens_total": {"route", "model", "type"},
    "ccproxy_estimated_tokens_total": {"route"},
    "ccproxy_cost_usd_total": {"route", "model"},
    "ccproxy_unpriced_total": {"route", "model"},
    "ccproxy_requests_in_flight": set(),
    "ccproxy_first_byte_wait_seconds": set(),
    "ccproxy_outbox_pending_events": set(),
    "ccproxy_spool_events": set(),
    "ccproxy_stream_lag_entries": {"stream"},
    "ccproxy_snapshot_age_seconds": {"stream"},
    "ccproxy_redis_up": set(),
    "ccproxy_problem": {"problem"},
    "ccproxy_credential_usable": {"route"},
    "ccproxy_token_refreshes_total": {"route", "outcome"},
    "ccproxy_events_resent_total": {"reason"},
    "ccproxy_replicas": set(),
    "ccproxy_dead_letters": {"stream"},
    "ccproxy_quarantined_events": {"stream"},
    "ccproxy_info": {"version", "settings"},
} | {f"{name}_bucket": labels | {"le"} for name, labels in HISTOGRAMS.items()}  # fmt: skip
