"""The only floor where parts are joined: tune, derive, reproduce."""
