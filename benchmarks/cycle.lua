-- Sends the requests of a file in turn, and reports the result as one JSON line.
--
-- wrk ... URL -- FILE [PORT ...]; a line of FILE is a path and headers, each a name and a value: all
-- of them separated by tabs. With ports, each thread has one of them in turn instead of the URL's: one
-- load, spread over several servers.
-- Every request is formatted once, before the clock starts: what is measured is the server.
-- There is no response() on purpose: calling Lua for every answer would halve wrk's speed.
-- wrk itself counts answers above 399.

local threads = {}

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(args)
   requests = {}
   for line in io.lines(args[1]) do
      local path, rest = line:match("^([^\t]*)(.*)$")
      local headers = {}
      for name, value in rest:gmatch("\t([^\t]+)\t([^\t]*)") do
         headers[name] = value
      end
      requests[#requests + 1] = wrk.format("GET", path, headers)
   end
   total = #requests
   if #args > 1 then
      local port = args[2 + number % (#args - 1)]
      wrk.thread.addr = wrk.lookup("127.0.0.1", port)[1]
   end
   -- Threads start apart, so that they do not ask for the same key at the same time.
   at = (number * 397) % total
end

function request()
   at = at % total + 1
   return requests[at]
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, '
         .. '"bad_status": %d, "connect_errors": %d, "read_errors": %d, "write_errors": %d, '
         .. '"timeouts": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      latency.max, errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
