"""Answers: prefix-sharing prefill, cached decoding, chat."""
