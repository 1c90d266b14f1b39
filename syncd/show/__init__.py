"""What people and machines see: events, logs, heartbeat, status."""
