-- It stops after a last checkpoint. Where the spec comes from git, a sync sets it back: suspend it there.
obj.spec.state = "Suspended"
return obj
