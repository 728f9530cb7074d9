"""Schema migrations, `NNNN_name.sql`, forward only. A released file is never edited.

One that only adds what older workers need not write has a line `-- compatible-from: NNNN`, so that they may be
restarted over it: see `workers.migrate`.
"""
