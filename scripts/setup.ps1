# Twin of setup.sh: finds a Python and hands over to setup.py.
$ErrorActionPreference = 'Stop'
foreach ($python in @($env:PYTHON, 'python3', 'python', 'py')) {
    if (-not $python -or -not (Get-Command $python -ErrorAction SilentlyContinue)) { continue }
    & $python -c 'import sys; sys.exit(sys.version_info < (3, 11))'
    if ($LASTEXITCODE -eq 0) {
        & $python (Join-Path $PSScriptRoot 'setup.py') @args
        exit $LASTEXITCODE
    }
}
[Console]::Error.WriteLine('Python 3.11 or newer is needed. Install it, or set PYTHON to yours.')
exit 1
