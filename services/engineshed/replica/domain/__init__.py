"""From token ids to text: what a replica does to every answer, without any I/O."""
