//! Flags of the metrics server and of horizontal pod autoscaling, with upstream's names.
use machinery::metrics::parse_go_duration;
use std::time::Duration;

fn duration(text: &str) -> Result<Duration, String> {
    parse_go_duration(text).ok_or_else(|| "a duration such as 15s, 500ms or 5m is wanted".to_owned())
}

/// Flags of whoever runs the metrics server.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct MetricsFlags {
    /// How often nodes are asked what their pods use, for `kubectl top` and autoscalers; no less than 1s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub(crate) metric_resolution: Duration,
}

/// Flags of whoever runs the controllers.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct AutoscalerFlags {
    /// How often each HorizontalPodAutoscaler is looked at
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    horizontal_pod_autoscaler_sync_period: Duration,
    /// For so long the highest recommendation counts, where a behavior does not say otherwise
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, hide_short_help = true)]
    horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// By how much a metric may differ from its target before anything is done
    #[arg(long, value_name = "RATIO", default_value_t = 0.1, hide_short_help = true)]
    horizontal_pod_autoscaler_tolerance: f64,
    /// For so long after its start a pod's CPU counts only once it was ready for a whole window
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, hide_short_help = true)]
    horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// A pod that became unready so soon after its start was never ready
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, hide_short_help = true)]
    horizontal_pod_autoscaler_initial_readiness_delay: Duration,
}

impl AutoscalerFlags {
    pub(crate) fn config(&self) -> controllers::AutoscalerConfig {
        controllers::AutoscalerConfig {
            sync_period: self.horizontal_pod_autoscaler_sync_period.max(Duration::from_millis(100)),
            downscale_stabilization: self.horizontal_pod_autoscaler_downscale_stabilization,
            tolerance: self.horizontal_pod_autoscaler_tolerance,
            cpu_initialization_period: self.horizontal_pod_autoscaler_cpu_initialization_period,
            initial_readiness_delay: self.horizontal_pod_autoscaler_initial_readiness_delay,
        }
    }
}
