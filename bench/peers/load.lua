-- Load for wrk: POST the template with @id replaced by a random first row, @tag by a number never used before.
-- @alias1000 in the path becomes many1 to many1000. Arguments: the path, the template, then headers as "name: value".
local path, template, alias
local seen = 0

function init(args)
    path, template = args[1], args[2]
    alias = tonumber(path:match("@alias(%d+)"))
    wrk.headers["content-type"] = "application/json"
    for at = 3, #args do
        local name, value = args[at]:match("^([^:]+): (.*)$")
        wrk.headers[name] = value
    end
    math.randomseed(os.time())
    seen = os.time() * 1000000 + math.floor(os.clock() * 1000000)
end

function request()
    seen = seen + 1
    local body = template:gsub("@id", string.format("%d", math.random(1, 980000))):gsub("@tag", string.format("%d", seen))
    if alias then
        return wrk.format("POST", path:gsub("@alias%d+", "many" .. math.random(1, alias)), nil, body)
    end
    return wrk.format("POST", path, nil, body)
end

function done(summary, latency)
    local errors = summary.errors
    io.stderr:write(string.format(
        '{"requests": %d, "us": %d, "bytes": %d, "bad": %d, "p50": %d, "p99": %d}\n',
        summary.requests, summary.duration, summary.bytes,
        errors.status + errors.read + errors.write + errors.timeout + errors.connect,
        latency:percentile(50), latency:percentile(99)))
end
