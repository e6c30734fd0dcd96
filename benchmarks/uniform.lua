-- Reads of keys drawn evenly from all keys of all services, and the result as one JSON line.
--
-- wrk ... URL -- FILE KEYS DELAY; a line of FILE is one service: the path of its keys up to their
-- number, tab, its token. KEYS: how many each has, numbered from 0. DELAY: how many milliseconds a
-- connection rests between two requests, on average; 0 is a closed loop.
-- What does not change of a request is formatted once, before the clock starts.

local threads = {}

function setup(thread)
   thread:set("number", #threads)
   table.insert(threads, thread)
end

function init(args)
   heads, tails = {}, {}
   for line in io.lines(args[1]) do
      local path, token = line:match("^([^\t]*)\t(.*)$")
      local whole = wrk.format("GET", path .. "@", { Authorization = "Bearer " .. token })
      local at = whole:find("@", 1, true)
      heads[#heads + 1] = whole:sub(1, at - 1)
      tails[#tails + 1] = whole:sub(at + 1)
   end
   services, keys = #heads, tonumber(args[2])
   local rest = tonumber(args[3])
   -- Other keys in each run: the same ones again would be found in the node's cache.
   math.randomseed(os.time() * 8 + number)
   if rest > 0 then
      function delay()
         return math.random(0, 2 * rest)
      end
   end
end

function request()
   local service = math.random(services)
   return heads[service] .. math.random(0, keys - 1) .. tails[service]
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
