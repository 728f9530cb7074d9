"""Schema migrations, `NNNN_name.sql`, forward only. A released file is never edited."""
