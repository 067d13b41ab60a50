"""Live sources: folders that are watched and feeds that are pulled."""
