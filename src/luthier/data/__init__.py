"""From files to tokens, without torch: read, check, split, render, tokenise, account."""
