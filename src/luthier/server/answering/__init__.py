"""From requests to what the engine is asked, and from what it says to answers and frames."""
