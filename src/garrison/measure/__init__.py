"""What the hardware will report of an image, before it boots, and the signatures over that."""
