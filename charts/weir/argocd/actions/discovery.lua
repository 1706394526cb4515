-- Which actions Argo CD offers for a StreamJob.
local suspended = obj.spec.state == "Suspended"
local awaits = false
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  if condition.type == "Progressing" and condition.reason == "AwaitingApproval" then
    awaits = true
  end
end
return {
  ["suspend"] = {disabled = suspended},
  ["resume"] = {disabled = not suspended},
  ["restart"] = {disabled = suspended},
  ["approve"] = {disabled = not awaits},
}
