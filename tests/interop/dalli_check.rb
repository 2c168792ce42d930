# dalli, the client of Rails, against a server: dalli_check.rb HOST:PORT [USER PASSWORD]. Where a
# user is named, the server must ask for one, by SASL. Ends with an error at once.
require "dalli"

Dalli.logger.level = Logger::FATAL
ADDRESS, USER, PASSWORD = ARGV

def check(what, got, wanted)
  abort "#{what}: got #{got.inspect[0, 300]}, wanted #{wanted.inspect[0, 300]}" unless got == wanted
end

def connect(**options)
  Dalli::Client.new(ADDRESS, socket_timeout: 10, **options)
end

def basics(client, name)
  key = "#{name}-key"
  check "set", client.set(key, { a: [1, 2.5, nil] }).is_a?(Integer), true
  check "get", client.get(key), { a: [1, 2.5, nil] }
  check "add of what is there", client.add(key, 1), false
  check "replace", client.replace(key, "three", 0, raw: true).is_a?(Integer), true
  check "append", client.append(key, "+"), true
  check "prepend", client.prepend(key, "-"), true
  check "get of it all", client.get(key, raw: true), "-three+"
  value, cas = client.get_cas(key)
  check "get_cas", value, "-three+"
  check "set_cas", client.set_cas(key, "four", cas).is_a?(Integer), true
  check "set_cas, the old one", client.set_cas(key, "five", cas), false
  check "cas", client.cas(key) { |old| "#{old}!" }.is_a?(Integer), true
  check "gat", client.gat(key, 100), "four!"
  check "touch", client.touch(key, 100), true
  check "delete", client.delete(key), true
  check "delete again", client.delete(key) || false, false
  client.set("#{name}-number", "40", 0, raw: true)
  check "incr", client.incr("#{name}-number", 2), 42
  check "decr below zero", client.decr("#{name}-number", 50), 0
  large = Random.new(1).bytes(900_000)
  check "a large value", client.set("#{name}-large", large, 0, raw: true).is_a?(Integer), true
  check "it comes back", client.get("#{name}-large", raw: true) == large, true
  keys = (0...2000).map { |at| "#{name} many-#{at}".tr(" ", "-") }
  client.multi { keys.each { |each| client.set(each, "value of #{each}") } }
  check "get_multi", client.get_multi(keys), keys.to_h { |each| [each, "value of #{each}"] }
  check "a key with blanks", client.set("a key of #{name}", 1).is_a?(Integer), true
  check "get of that", client.get("a key of #{name}"), 1
  check "fetch", client.fetch("#{name}-fetched") { 7 }, 7
  check "stats", client.stats.values.first["curr_items"].to_i > 2000, true
  check "version", client.version.values.first.start_with?("1.6."), true
end

def refused(what, **options)
  connect(**options).set("stranger", 1)
rescue Dalli::DalliError
  nil
else
  abort "#{what} was served"
end

if USER
  basics connect(username: USER, password: PASSWORD), "sasl"
  refused "a wrong password", username: USER, password: "#{PASSWORD}x"
  refused "a part of the password", username: USER, password: PASSWORD[0..-2]
  refused "nobody"
else
  basics connect(protocol: :binary), "binary"
  basics connect(protocol: :meta), "meta"
end
puts "passed"
