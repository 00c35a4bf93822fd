# Send a line to HOST:PORT and print the answer. To connect is to open a file; the keep does TLS.
address, text = ARGV
stream = IO.for_fd(IO.sysopen("/net/con/#{address}", File::RDWR), "r+")
stream.sync = true
puts "peer #{File.read("/net/peer/fd/#{stream.fileno}")}"
stream.syswrite("#{text}\n")
puts "echo #{stream.gets}"
