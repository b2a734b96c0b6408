-- Argo CD's health of a Partition, from its conditions. Argo CD sets `obj`. It opens no library for
-- strings, so there are none here.

local found = {}
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    found[condition.type] = condition
  end
end

-- Whether a condition has this status and, if reasons are given, one of them.
local function is(kind, status, reasons)
  local condition = found[kind]
  if condition == nil or condition.status ~= status then
    return false
  end
  return reasons == nil or reasons[condition.reason] == true
end

local function health(status, kind)
  return {status = status, message = found[kind].message}
end

local function stalled()
  if is("RolledOut", "False", {Stalled = true, InvalidWindow = true}) then
    return "RolledOut"
  end
  if is("BackfillComplete", "False", {Stalled = true, Refused = true}) then
    return "BackfillComplete"
  end
  if is("CertificatesReady", "False", {Refused = true, AuthorityInvalid = true}) then
    return "CertificatesReady"
  end
  if is("StorageReady", "False") then
    return "StorageReady"
  end
  if is("ObjectsApplied", "False") then
    return "ObjectsApplied"
  end
  return nil
end

-- Of a Partition that does not serve. Before there is a group, that is no fault.
local function not_ready()
  local lasting = {VolumeLost = true, RestoreFailed = true, Conflict = true, ObjectRefused = true}
  if is("Bootstrapped", "True") or is("Ready", "False", lasting) then
    return health("Degraded", "Ready")
  end
  return health("Progressing", "Ready")
end

local ready = found["Ready"]
local generation = obj.metadata.generation
if ready == nil then
  return {status = "Progressing", message = "the operator has not looked at it yet"}
end
if obj.status.observedGeneration ~= nil and generation ~= nil
    and obj.status.observedGeneration < generation then
  return {status = "Progressing", message = "the operator has not seen the newest spec yet"}
end
if is("Accepted", "False") then
  return health("Degraded", "Accepted")
end
if is("Ready", "False", {Hibernated = true, Hibernating = true}) then
  return health("Suspended", "Ready")
end
if is("Ready", "False") then
  return not_ready()
end
if is("Ready", "Unknown") then
  return health("Unknown", "Ready")
end
local fault = stalled()
if fault ~= nil then
  return health("Degraded", fault)
end
if is("Paused", "True") then
  return health("Suspended", "Paused")
end
if is("RolledOut", "False", {WaitingForApproval = true, OnDelete = true, OutsideWindow = true}) then
  return health("Suspended", "RolledOut")
end
if is("RolledOut", "False") then
  return health("Progressing", "RolledOut")
end
if is("BackfillComplete", "False") and not is("BackfillComplete", "False", {NotRequested = true}) then
  return health("Progressing", "BackfillComplete")
end
if ready.reason ~= "Ready" then
  return health("Progressing", "Ready")
end
if is("Progressing", "True") then
  return health("Progressing", "Progressing")
end
return health("Healthy", "Ready")
