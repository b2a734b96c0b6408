-- Argo CD's health of a PartitionSnapshot, from its state. Argo CD sets `obj`.

local status = obj.status or {}
local message = status.message or ""

for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Available" and condition.status == "False" then
    return {status = "Degraded", message = condition.message}
  end
end

if status.state == "Failed" or status.state == "VerifyFailed" then
  return {status = "Degraded", message = message}
end
if status.state == "Verified" then
  return {status = "Healthy", message = message}
end
if status.state == "Succeeded" then
  local verification = status.verification
  if verification ~= nil and verification.completionTime == nil then
    return {status = "Progressing", message = "the snapshot is stored and is being verified"}
  end
  return {status = "Healthy", message = message}
end
if status.state == nil then
  return {status = "Progressing", message = "the operator has not looked at it yet"}
end
return {status = "Progressing", message = message}
