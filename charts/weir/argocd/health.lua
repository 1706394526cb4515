-- The health of a StreamJob for Argo CD: resource.customizations.health.weir.dev_StreamJob.
local health = {status = "Progressing", message = "the operator has not seen it yet"}
if obj.metadata.deletionTimestamp ~= nil then
  health.message = "it takes a last checkpoint and goes"
  return health
end
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end
local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end
local function is(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end
if is("Degraded") then
  health.status = "Degraded"
  health.message = conditions.Degraded.reason .. ": " .. (conditions.Degraded.message or "")
elseif conditions.Progressing ~= nil and conditions.Progressing.reason == "AwaitingApproval" then
  health.status = "Suspended"
  health.message = conditions.Progressing.message
elseif is("Suspended") then
  health.status = "Suspended"
  health.message = "it stands still, as its spec says"
elseif is("Ready") then
  health.status = "Healthy"
  health.message = conditions.Ready.message or ""
elseif conditions.Ready ~= nil then
  health.message = conditions.Ready.message or ""
end
return health
