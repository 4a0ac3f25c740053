-- Sends the bodies of a file, one a line, from a random place on; prints one line of figures.
local path, target = os.getenv("BODIES"), os.getenv("TARGET")
local requests, number = {}, 0

function init(args)
    local headers = {["Content-Type"] = "application/json"}
    for line in io.lines(path) do
        requests[#requests + 1] = wrk.format("POST", target, headers, line)
    end
    math.randomseed(os.time())
    number = math.random(#requests)
end

function request()
    number = number % #requests + 1
    return requests[number]
end

function done(summary, latency, _)
    local errors = summary.errors
    io.write(string.format(
        "FIGURES %.3f %.1f %.1f %d %d\n",
        summary.requests / (summary.duration / 1e6), latency:percentile(50), latency:percentile(99),
        errors.status + errors.connect + errors.read + errors.write + errors.timeout,
        summary.requests
    ))
end
