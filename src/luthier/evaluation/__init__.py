"""Is it better? Scores, the paired verdict, the certificate, the report."""
