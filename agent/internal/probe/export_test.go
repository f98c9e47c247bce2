package probe

// What tests need to look at other addresses than those of a node.
var (
	Look         = look
	FelixReadyAt = felixReady
)
