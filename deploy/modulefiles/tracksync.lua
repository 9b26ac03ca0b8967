-- Module file (Lmod) for tracksync. Copy to <modulefiles>/tracksync/<version>.lua and set `root` to where it was
-- installed (deploy/README.md, "Installing"). Users then: module load tracksync; tracksync push ...
-- It brings one command and no library: a module for Python or MLflow that is loaded beside it stays as it is.

help([[Carries MLflow runs that were logged offline to an MLflow server: once, complete, live.
    tracksync push DIR      send what is there
    tracksync watch DIR     send it as it is written
    tracksync status        what is delivered, pending, held]])
whatis("Name: tracksync")
whatis("Description: carries MLflow runs logged offline to an MLflow server")

local root = "/opt/tracksync"

-- Only the command: the whole bin would put its python before the user's.
prepend_path("PATH", pathJoin(root, "libexec", "bin"))

-- What holds for all users of this cluster belongs into /etc/tracksync/config.toml. On a node without it:
-- pushenv("TRACKSYNC_SITE_CONFIG", "/shared/etc/tracksync/config.toml")
