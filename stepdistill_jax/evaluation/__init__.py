"""The eval binary: answers, metrics, statistics, reports."""
