"""What `xsen2.benchmark` and ``xsen2 evaluate`` are made of."""
