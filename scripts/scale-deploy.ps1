# Twin of scale-deploy.sh, over Docker Compose: start N | scale N | restart | status | logs [SERVICE] | stop.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
$command = if ($args.Count -gt 0) { $args[0] } else { '' }
$rest = @($args | Select-Object -Skip 1)
$usage = 'Usage: scripts/scale-deploy.ps1 start N | scale N | restart | status | logs [SERVICE] | stop'
if (-not (Get-Command docker -ErrorAction SilentlyContinue)) {
    [Console]::Error.WriteLine('docker is missing: on Windows the fleet runs in containers. Install Docker Desktop.')
    exit 1
}
if ($command -in @('start', 'scale')) {
    if ($rest.Count -lt 1 -or $rest[0] -notmatch '^[1-9][0-9]?$') {
        [Console]::Error.WriteLine($usage)
        exit 2
    }
    docker compose up --detach --wait --no-recreate --scale "server=$($rest[0])"
} elseif ($command -eq 'restart') {
    # Compose restarts all at once: the clients of each resume when it is back.
    docker compose restart server
} elseif ($command -eq 'status') {
    docker compose ps
} elseif ($command -eq 'logs') {
    docker compose logs --tail 50 @rest
} elseif ($command -eq 'stop') {
    docker compose down
} else {
    [Console]::Error.WriteLine($usage)
    exit 2
}
exit $LASTEXITCODE
