"""The schema, step by step: `NNNN_name.sql`, forward only. A step that was released is never edited."""
