"""Files the broker serves to browsers."""
