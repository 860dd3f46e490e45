"""What a host can do: `facts` are what was seen of it, `diagnosis` is what they mean."""
