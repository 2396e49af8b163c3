"""`make smoke`: a look at every part of a running Penstock, from this machine, in a minute."""
