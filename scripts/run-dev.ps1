# Twin of run-dev.sh: sets up what is missing, then serves with debug logs and hot reload.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
& (Join-Path $PSScriptRoot 'setup.ps1') --quiet
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
$env:SERVER_HOST = '127.0.0.1'
if (-not $env:AUTH_MODE) { $env:AUTH_MODE = 'off' }
if (-not $env:MAX_CONNECTIONS_PER_ADDRESS) { $env:MAX_CONNECTIONS_PER_ADDRESS = '0' }
if (-not $env:LOG_LEVEL) { $env:LOG_LEVEL = 'DEBUG' }
if (-not $env:LOG_FORMAT) { $env:LOG_FORMAT = 'console' }
if (-not $env:DRAIN_TIMEOUT_S) { $env:DRAIN_TIMEOUT_S = '1' }
$python = if (Test-Path '.venv/Scripts') { '.venv/Scripts/python.exe' } else { '.venv/bin/python' }
& $python -m watchfiles --filter python "$python -m trio_stt serve" trio_stt
exit $LASTEXITCODE
