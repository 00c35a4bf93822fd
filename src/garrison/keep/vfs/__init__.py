"""The virtual file system: all the files a guest sees are objects in the keep's memory."""
