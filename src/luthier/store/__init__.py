"""Where runs, and later the database, blobs, lineage and audit, are kept."""
