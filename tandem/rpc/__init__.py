"""What every Tandem server and client does the same way: statuses, identity, deadlines, health, traces."""
