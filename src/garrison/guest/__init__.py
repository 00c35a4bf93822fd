"""Inside a keep's virtual machine: what the image's first process runs."""
