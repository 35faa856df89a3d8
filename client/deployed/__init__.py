"""What a deployed node has beside a simulated one: a process that stays, and data of its own."""
