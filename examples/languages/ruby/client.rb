# Sends a line to HOST:PORT, and says who answered, and what.

File.open("/net/con/#{ARGV[0]}", "r+") do |connection|
  connection.sync = true
  event = File.read("/net/peer/con")
  puts "peer #{event[/"peer":(.*)}/, 1]}"
  connection.puts ARGV[1]
  puts "echo #{connection.gets.strip}"
end
